# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The choice of backend, and the module with the CUDA kernels where it is built."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from moving import kernel_devices

from attnpatch.ops import blur_and_blend, branch_attention, library
from attnpatch.ops.branch_attention import branch_attention_reference

OPERATORS = (
    "attention_column_mean",
    "blur_and_blend",
    "branch_attention",
    "pool_tokens",
    "tile_attention",
)


def has_cuda_kernel(name):
    return "\nCUDA: " in torch._C._dispatch_dump(f"attnpatch::{name}")


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_unknown_backend_is_an_error(monkeypatch):
    monkeypatch.setenv("ATTNPATCH_BACKEND", "fast")
    with pytest.raises(ValueError, match=r"ATTNPATCH_BACKEND: expected one of .*, got 'fast'"):
        library.backend()


@pytest.mark.parametrize("word", library.BACKENDS)
def test_every_backend_has_its_word(monkeypatch, word):
    monkeypatch.setenv("ATTNPATCH_BACKEND", word)
    assert library.backend() == word


def attention_inputs(size=8, branches=1):
    q = torch.rand(1, 1, 3, size)
    rows = [torch.zeros(1, dtype=torch.int64)] * branches
    return [q, q, q, [q] * branches, [q] * branches, rows, torch.ones(branches, 1)]


@pytest.mark.parametrize(
    ("size", "branches", "beyond"), [(8, 2, False), (9, 2, True), (8, 3, True)]
)
def test_the_reference_serves_what_is_beyond_a_kernel(monkeypatch, size, branches, beyond):
    limits = SimpleNamespace(head_size=8, branches=2, kernel_size=5)
    monkeypatch.setattr(library, "_LIMITS", {"cpu": limits})
    inputs = attention_inputs(size, branches)
    called = []
    monkeypatch.setitem(
        library._BEYOND,
        branch_attention_reference,
        lambda *a, known=library._BEYOND[branch_attention_reference]: (
            called.append(known(*a)) or called[-1]
        ),
    )
    torch.testing.assert_close(branch_attention(*inputs), branch_attention_reference(*inputs, None))
    assert called == [beyond]


def test_limits_compile_whole(monkeypatch):
    limits = SimpleNamespace(head_size=8, branches=2, kernel_size=5)
    monkeypatch.setattr(library, "_LIMITS", {"cpu": limits})
    inputs = attention_inputs()
    compiled = torch.compile(branch_attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), branch_attention_reference(*inputs, None))


def test_a_wide_blur_is_beyond_a_kernel(monkeypatch):
    x0, saliency = torch.rand(1, 1, 9, 9), torch.full((1, 1, 1), 2.0)
    expected = blur_and_blend(x0, saliency, 2.0, 1.0, 7)
    monkeypatch.setattr(library, "_LIMITS", {"cpu": SimpleNamespace(kernel_size=5)})
    torch.testing.assert_close(blur_and_blend(x0, saliency, 2.0, 1.0, 7), expected)


def cuda_module():
    """The file of the module, installed or where ``./run test`` builds it; None: there is none."""
    spec = importlib.util.find_spec("attnpatch._cuda")
    if spec is not None:
        return Path(spec.origin)
    built = sorted((Path(__file__).parents[2] / "build" / "cuda").glob("_cuda.*"))
    return built[0] if built else None


@pytest.mark.skipif(
    importlib.util.find_spec("attnpatch._cuda") is not None, reason="attnpatch._cuda is built in"
)
def test_cuda_asked_for_but_not_built_is_a_clear_error():
    result = run_python("import attnpatch.ops", ATTNPATCH_BACKEND="cuda")
    assert result.returncode != 0
    assert "this build of attnpatch has no CUDA kernels" in result.stderr


@pytest.mark.skipif(
    "cuda" not in kernel_devices(),
    reason="the tests of this folder run on the CPU alone: there is no CUDA device, or its kernels "
    "are not asked for (ATTNPATCH_BACKEND=cuda)",
)
def test_these_tests_run_on_cuda_too():
    assert has_cuda_kernel("branch_attention")


@pytest.mark.skipif(cuda_module() is None, reason="attnpatch._cuda is not built")
def test_the_cuda_module_gives_every_operator_a_kernel():
    code = f"""
import importlib.util, torch, attnpatch.ops
names = {OPERATORS!r}
registered = lambda: [n for n in names if "\\nCUDA: " in torch._C._dispatch_dump("attnpatch::" + n)]
assert registered() == [], registered()
spec = importlib.util.spec_from_file_location("attnpatch._cuda", {str(cuda_module())!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert registered() == list(names), registered()
assert (module.head_size, module.branches, module.kernel_size) == (160, 16, 65)
"""
    result = run_python(code, ATTNPATCH_BACKEND="auto")
    assert result.returncode == 0, result.stderr
