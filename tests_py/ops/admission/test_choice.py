# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Who serves a call, and how the operators obey."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_library import CALLS, count_operators, flat

from attnpatch.ops import admission, library, pool_tokens
from attnpatch.ops.admission import Verdict, choice, class_of, tune
from attnpatch.ops.admission.choice import Table

X = torch.zeros(2, 20, 6)
CALL = ("pool_tokens", "torch.float32", "rows, tokens <=256, the grid, avg")


def call(x=X):
    return pool_tokens(x, (4, 5), (2, 2), (2, 2))


def uses_kernel(function=call):
    with torch.no_grad(), count_operators() as called:
        function()
    return "attnpatch" in called


@pytest.fixture
def verdict_on_cpu(monkeypatch):
    """Puts one verdict on this CPU's kernels in force."""

    def put(**content):
        table = Table("cpu", [Verdict(*CALL, **content)], "your verdict")
        monkeypatch.setattr(library, "_CPU_VERDICTS", True)
        monkeypatch.setitem(choice._TABLES, torch.device("cpu"), table)

    return put


def test_a_folder_that_may_not_be_read_has_no_verdicts(monkeypatch):
    def refuse(*_):
        raise PermissionError("no")

    monkeypatch.setattr(Path, "glob", refuse)
    assert not choice.has_verdicts("cpu")


def test_who_has_no_home_has_no_verdicts(tmp_path, monkeypatch):
    """Neither to import the package nor to call its operators on a GPU is one needed."""

    def refuse():
        raise RuntimeError("Could not determine home directory.")

    for name in ("ATTNPATCH_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", refuse)
    assert not choice.has_verdicts("cpu")
    assert not choice.table_for({"device": "cuda", "name": "any"}, shipped=tmp_path).verdicts
    with pytest.raises(FileNotFoundError, match="ATTNPATCH_CACHE: expected the name of a folder"):
        tune.tune("cpu", ["pool_tokens"], ["float32"], run=lambda *_: pytest.fail("measured"))


def test_verdicts_of_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no")

    monkeypatch.setattr(Path, "glob", refuse)
    table = choice.table_for({"device": "cpu", "name": "any"}, tmp_path, tmp_path)
    assert not table.verdicts


def test_a_class_has_a_name_for_people():
    assert class_of("pool_tokens", [X, (4, 5), (4, 5), (0, 0), (2, 2), (2, 2), "avg", [1.0]]) == (
        "any layout, tokens <=256, the grid, avg"
    )


@pytest.mark.slow
def test_without_verdicts_the_cpus_kernels_serve(verdict_on_cpu):
    assert uses_kernel()
    verdict_on_cpu(state="right", median=2.0, quartile=2.0)
    assert uses_kernel()


@pytest.mark.parametrize(
    "content", [{"state": "right", "median": 0.5}, {"state": "failed"}, {"state": "wrong"}]
)
def test_a_verdict_against_a_kernel_is_obeyed_in_its_class_alone(verdict_on_cpu, content):
    verdict_on_cpu(**content)
    rows = torch.zeros(2, 20, 8)
    assert not uses_kernel(lambda: call(rows))
    assert uses_kernel(lambda: call(torch.zeros(2, 20, 8).half()))
    assert uses_kernel(lambda: pool_tokens(rows, (4, 5), (2, 2), (2, 2), "max"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_every_operator_compiles_whole_with_verdicts(verdict_on_cpu, name):
    verdict_on_cpu(state="failed")
    compiled = torch.compile(CALLS[name], fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for found, expected in zip(flat(compiled()), flat(CALLS[name]()), strict=True):
            torch.testing.assert_close(found, expected)


def test_the_users_word_stands_above_all(verdict_on_cpu, monkeypatch):
    verdict_on_cpu(state="failed")
    rows = torch.zeros(2, 20, 8)
    monkeypatch.setattr(library, "_LIMITS", {"cpu": SimpleNamespace(grid=9)})
    assert uses_kernel(lambda: call(rows))
    monkeypatch.setattr(library, "_FORCED", "plain")
    assert not uses_kernel(lambda: call(rows))


class OnGpu:
    """What is asked of a tensor before it is called: there is no GPU here."""

    is_cpu = False
    device = torch.device("cuda:0")
    dtype = torch.float32
    shape = (2, 20, 8)
    requires_grad = False

    @staticmethod
    def stride():
        return 160, 8, 1

    @staticmethod
    def element_size():
        return 4


ARGUMENTS = [OnGpu, (4, 5), (4, 5), (0, 0), (2, 2), (2, 2), "avg", [1.0]]
GOOD = Verdict(*CALL, "right", 2.0, 1.5)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU, with a module of kernels and verdicts of one's own."""

    def put(verdicts, refusal="", built=True):
        kernels = SimpleNamespace(grid=9, refusal=lambda device: refusal)
        table = Table("cuda", verdicts, "your verdict")
        monkeypatch.setitem(choice._TABLES, OnGpu.device, table)
        monkeypatch.setattr(library, "_CUDA_KERNELS", {})
        monkeypatch.setattr(library, "load_cuda_kernels", lambda: kernels)
        monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: built or None)
        forms = library.forms_of("pool_tokens")._replace(check=lambda *_: None)
        return library.kernel_serves(forms, ARGUMENTS)

    return put


def test_a_gpus_kernel_serves_where_it_was_admitted(gpu):
    assert gpu([GOOD])
    assert not gpu([])
    assert not gpu([Verdict(*CALL, "right", 1.04, 1.0)])
    assert not gpu([Verdict(*CALL[:2], "another class", "right", 2.0, 2.0)])
    assert not gpu([GOOD], built=False)


def test_a_gpu_that_the_build_has_no_code_for_is_named(gpu, caplog):
    assert not gpu([GOOD], refusal="no kernel image is available")
    assert "cuda:0: our kernels cannot run there: no kernel image is available" in caplog.text


def test_limits_hold_for_admitted_kernels(gpu, monkeypatch):
    monkeypatch.setattr(OnGpu, "shape", (10, 20, 8))
    assert not gpu([GOOD])


def test_what_serves_can_be_told(gpu):
    gpu([GOOD])
    ((operator, dtype, name, found),) = admission.explain(OnGpu.device)
    assert (operator, dtype, name) == CALL
    assert found.kernel
    assert found.why == "your verdict: 2.00 times as fast as plain torch"
