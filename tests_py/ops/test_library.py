# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The choice of backend, and the module with the CUDA kernels where it is built."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from moving import kernel_devices
from torch.utils._python_dispatch import TorchDispatchMode

from attnpatch.ops import (
    Tiling,
    attention_column_mean,
    biased_attention,
    blur_and_blend,
    library,
    pool_tokens,
    tile_attention,
)
from attnpatch.ops.branch_attention import branch_attention_flat, branch_attention_reference


def flat(results):
    return [results] if isinstance(results, torch.Tensor) else list(results)


def random(*shape):
    return (torch.arange(math.prod(shape)) ** 2 * 0.7).sin().view(shape)  # compiles


def call_branches(shared_softmax):
    q, image = random(2, 2, 9, 8), random(2, 2, 4, 8)
    rows, weights = torch.tensor([0, -1]), torch.full((1, 2), 0.7)
    return branch_attention_flat(q, q, q, [image], [image], [rows], weights, None, shared_softmax)


CALLS = {
    "attention_column_mean": lambda: attention_column_mean(*[random(2, 2, 9, 8)] * 3, [1]),
    "biased_attention": lambda: biased_attention(
        *[random(2, 2, 9, 8)] * 3, random(1, 9, 2), random(2, 9, 2)
    ),
    "blur_and_blend": lambda: blur_and_blend(random(1, 2, 9, 9), random(1, 3, 3), 2.0),
    "branch_attention": lambda: call_branches(0),
    "branch_attention, shared_softmax": lambda: call_branches(1),
    "pool_tokens": lambda: pool_tokens(random(2, 20, 6), (4, 5), (2, 2), (2, 2), "avg", (0.5, 1.0)),
    "tile_attention": lambda: tile_attention(
        *[random(2, 2, 20, 8)] * 3, Tiling((4, 5), (2, 3)), (), *[random(2, 2, 4, 8)] * 2
    ),
}


class count_operators(TorchDispatchMode):
    """Gives the namespaces of the operators that are called, but for checks."""

    def __enter__(self):
        super().__enter__()
        self.namespaces = set()
        return self.namespaces

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "::_check_" not in func._schema.name:
            self.namespaces.add(func.namespace)
        return func(*args, **(kwargs or {}))


OPERATORS = (
    "attention_column_mean",
    "biased_attention",
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


def attention_inputs(size=8, branches=1, dtype=torch.float32):
    q = random(1, 1, 3, size).to(dtype)
    rows = [torch.zeros(1, dtype=torch.int64)] * branches
    return [q, q, q, [q] * branches, [q] * branches, rows, torch.ones(branches, 1)]


LIMITS = SimpleNamespace(head_size=8, branches=2, kernel_size=5, grid=6)


@pytest.mark.parametrize(
    ("size", "branches", "dtype", "beyond"),
    [
        (8, 2, torch.float16, False),
        (9, 2, torch.float16, True),
        (8, 3, torch.bfloat16, True),
        (8, 2, torch.float32, True),  # torch's own has tensor cores
    ],
)
def test_plain_torch_serves_what_is_beyond_a_kernel(monkeypatch, size, branches, dtype, beyond):
    monkeypatch.setattr(library, "_LIMITS", {"cpu": LIMITS})
    inputs = attention_inputs(size, branches, dtype)
    with count_operators() as called, torch.no_grad():
        found = branch_attention_flat(*inputs)
    assert ("attnpatch" in called) != beyond
    expected = branch_attention_reference(*inputs, None)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["biased", "branch", "column_mean", "tile"])
@pytest.mark.parametrize(("kv_heads", "beyond"), [(4, False), (2, True), (1, True)])
def test_heads_in_groups_are_beyond_a_kernel(monkeypatch, name, kv_heads, beyond):
    monkeypatch.setattr(library, "_LIMITS", {"cpu": LIMITS})
    q, k = random(1, 4, 20, 8).half(), random(1, kv_heads, 20, 8).half()
    rows, weights, bias = torch.zeros(1, dtype=torch.int64), torch.ones(1, 1), random(1, 20, 2)
    calls = {
        "biased": lambda: biased_attention(q, k, k, bias, bias),
        "branch": lambda: branch_attention_flat(q, k, k, [k], [k], [rows], weights),
        "column_mean": lambda: attention_column_mean(q, k, k, [0]),
        "tile": lambda: tile_attention(q, k, k, Tiling((4, 5), (2, 5))),
    }
    with count_operators() as called, torch.no_grad():
        calls[name]()
    assert ("attnpatch" in called) != beyond


@pytest.mark.parametrize("name", ["blur_and_blend", "pool_tokens", "tile_attention"])
@pytest.mark.parametrize(("batch", "beyond"), [(6, False), (7, True)])
def test_more_rows_than_a_grid_has_are_beyond_a_kernel(monkeypatch, name, batch, beyond):
    monkeypatch.setattr(library, "_LIMITS", {"cpu": LIMITS})
    x = random(batch, 1, 20, 8).half()
    calls = {
        "blur_and_blend": lambda: blur_and_blend(x, random(batch, 2, 2), 2.0, 1.0, 5),
        "pool_tokens": lambda: pool_tokens(x[:, 0], (4, 5), (2, 2), (2, 2)),
        "tile_attention": lambda: tile_attention(x, x, x, Tiling((4, 5), (2, 5))),
    }
    with count_operators() as called, torch.no_grad():
        calls[name]()
    assert ("attnpatch" in called) != beyond


def test_limits_compile_whole(monkeypatch):
    monkeypatch.setattr(library, "_LIMITS", {"cpu": LIMITS})
    inputs = attention_inputs()
    compiled = torch.compile(branch_attention_flat, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), branch_attention_reference(*inputs, None))


def test_a_wide_blur_is_beyond_a_kernel(monkeypatch):
    x0, saliency = torch.rand(1, 1, 9, 9), torch.full((1, 1, 1), 2.0)
    expected = blur_and_blend(x0, saliency, 2.0, 1.0, 7)
    monkeypatch.setattr(library, "_LIMITS", {"cpu": LIMITS})
    torch.testing.assert_close(blur_and_blend(x0, saliency, 2.0, 1.0, 7), expected)


@pytest.fixture
def plain_torch(monkeypatch):
    """The CPU as a device without kernels of ours."""
    monkeypatch.setattr(library, "_FORCED", "plain")


def test_a_device_without_kernels_takes_plain_torch():
    q, k, v, branch_k, branch_v, rows, weights = attention_inputs()
    meta = [t.to("meta") for t in (q, k, v, branch_k[0], branch_v[0], rows[0], weights)]
    with count_operators() as called, torch.no_grad():
        out = branch_attention_flat(*meta[:3], meta[3:4], meta[4:5], meta[5:6], meta[6])
    assert (out.device.type, out.shape) == ("meta", q.shape)
    assert "attnpatch" not in called


def test_the_compiler_sees_through_plain_torch(plain_torch):
    inputs = attention_inputs()
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(branch_attention_flat, fullgraph=True, backend=keep)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), branch_attention_reference(*inputs))
    assert len(graphs) == 1
    assert "attnpatch.branch_attention" not in graphs[0].code


@pytest.mark.parametrize("name", CALLS)
def test_plain_torch_compiles_whole(plain_torch, name):
    call = CALLS[name]
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for found, expected in zip(flat(compiled()), flat(call()), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_plain_torch_is_cast_as_kernels_are(monkeypatch, name, dtype):
    with torch.autocast("cpu", dtype):
        expected = flat(CALLS[name]())
        monkeypatch.setattr(library, "_FORCED", "plain")
        found = flat(CALLS[name]())
    for ours, kernels in zip(found, expected, strict=True):
        assert ours.dtype == kernels.dtype
        torch.testing.assert_close(ours, kernels, rtol=2e-2, atol=2e-2)


def test_gradients_are_those_of_the_reference_without_a_kernel(plain_torch):
    inputs = attention_inputs()
    q = inputs[0] = inputs[0].clone().requires_grad_()
    (found,) = torch.autograd.grad(branch_attention_flat(*inputs).square().sum(), q)
    (expected,) = torch.autograd.grad(branch_attention_reference(*inputs).square().sum(), q)
    torch.testing.assert_close(found, expected)


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
assert module.grid == 65535
assert isinstance(module.refusal(0), str)
"""
    result = run_python(code, ATTNPATCH_BACKEND="auto")
    assert result.returncode == 0, result.stderr
