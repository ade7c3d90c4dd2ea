# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What operators owe a GPU: no waiting, the current stream, graphs, errors that name the kernel."""

import pytest
import torch
from moving import kernel_devices

from attnpatch.ops import (
    Tiling,
    attention_column_mean,
    biased_attention,
    blur_and_blend,
    pool_tokens,
    tile_attention,
)
from attnpatch.ops.branch_attention import branch_attention_flat

if "cuda" not in kernel_devices():
    pytest.skip(
        "no CUDA device, or its kernels are not asked for (ATTNPATCH_BACKEND=cuda)",
        allow_module_level=True,
    )

TILING = Tiling((12, 10), (5, 4), (2, 1))


def heads(tokens, dtype=torch.float16, batch=2, size=64):
    g = torch.Generator().manual_seed(tokens)
    flat = torch.randn(batch, tokens, 2 * size, generator=g).to("cuda", dtype)
    return flat.unflatten(2, (2, size)).transpose(1, 2)


def case_of(name, dtype):
    """An operator as a function of one tensor that a test may change, and that tensor."""
    q, k = heads(120, dtype), heads(77, dtype)
    rows = torch.tensor([1, 0], device="cuda")
    weights = torch.ones(1, 2, device="cuda")
    saliency = torch.rand(2, 3, 3, device="cuda") * 2
    x0 = torch.randn(2, 4, 32, 32, device="cuda").to(dtype)
    tokens = q.transpose(1, 2).flatten(2)
    biases = torch.rand(1, 120, 2, device="cuda"), torch.randn(2, 77, 2, device="cuda")
    biases[1][:, 0, 0] = -torch.inf
    return {
        "attention_column_mean": (lambda t: attention_column_mean(t, k, k, [1]), q),
        "biased_attention": (lambda t: biased_attention(t, k, k, *biases), q),
        "blur_and_blend": (lambda t: blur_and_blend(t, saliency, 2.0), x0),
        "branch_attention": (
            lambda t: branch_attention_flat(t, k, k, [k], [k], [rows], weights),
            q,
        ),
        "pool_tokens": (
            lambda t: pool_tokens(t, TILING, (2, 2), (2, 2), "avg", (0.5, 1.0)),
            tokens,
        ),
        "tile_attention": (lambda t: tile_attention(t, t, t, TILING, (), k, k), q),
    }[name]


NAMES = (
    "attention_column_mean",
    "biased_attention",
    "blur_and_blend",
    "branch_attention",
    "pool_tokens",
    "tile_attention",
)
every_case = pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in NAMES for dtype in (torch.float16, torch.bfloat16, torch.float32)],
    ids=str,
)


def flat(results):
    return [results] if isinstance(results, torch.Tensor) else list(results)


@every_case
def test_nothing_waits_for_the_device(name, dtype):
    function, x = case_of(name, dtype)
    function(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        function(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_case
def test_work_is_on_the_current_stream(name, dtype):
    function, x = case_of(name, dtype)
    expected = flat(function(x))
    torch.cuda.synchronize()
    late = torch.zeros_like(x)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # whoever does not wait sees zeros
        late.copy_(x)
        found = flat(function(late))
    stream.synchronize()
    assert all(map(torch.equal, found, expected))


@every_case
def test_a_graph_replays_with_new_values(name, dtype):
    function, x = case_of(name, dtype)
    still = x.clone(memory_format=torch.preserve_format)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function(still)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = flat(function(still))
    still.copy_(x.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, found, flat(function(x.flip(0)))))


@every_case
def test_the_default_compiler_gives_the_same(name, dtype):
    function, x = case_of(name, dtype)
    compiled = torch.compile(function, fullgraph=True)
    for found, expected in zip(flat(compiled(x)), flat(function(x)), strict=True):
        torch.testing.assert_close(found, expected)


@every_case
def test_results_repeat_bit_by_bit(name, dtype):
    function, x = case_of(name, dtype)
    assert all(map(torch.equal, flat(function(x)), flat(function(x))))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
@every_case
def test_the_tensors_device_counts_not_the_current_one(name, dtype):
    function, x = case_of(name, dtype)
    expected = flat(function(x))
    with torch.cuda.device(1):
        assert all(map(torch.equal, flat(function(x)), expected))


def test_a_launch_that_fails_names_its_kernel():
    many = torch.zeros(70_000, 1, 1, 8, device="cuda", dtype=torch.float16)
    operator = torch.ops.attnpatch.tile_attention.default  # the public function takes plain torch
    assert torch.equal(tile_attention(many, many, many, Tiling((1, 1), (1, 1))), many)
    with pytest.raises(RuntimeError, match=r"tile_attention, or an earlier kernel: .*launch\.h"):
        operator(many, many, many, (1, 1), (1, 1), (0, 0), ())
    function, x = case_of("tile_attention", torch.float16)  # and the device lives on
    assert torch.isfinite(function(x)).all()


def test_tensors_of_two_devices_are_an_error():
    _, x = case_of("tile_attention", torch.float16)
    k = heads(77).cpu()
    with pytest.raises(RuntimeError, match="shared_k: expected on the device of q"):
        tile_attention(x, x, x, TILING, (), k, k)


def test_more_than_two_thousand_million_elements():
    """Places beyond 32 bits: the last rows of a large batch equal those of a small one."""
    free, _ = torch.cuda.mem_get_info()
    rows = 33_000
    if free < 8 << 30:
        pytest.skip("less than 8 GiB of free device memory")
    x = torch.zeros(rows, 1024, 64, device="cuda", dtype=torch.float16)
    x[-1].normal_()
    whole = pool_tokens(x, (32, 32), (2, 2), (2, 2))[0]
    assert torch.equal(whole[-1:], pool_tokens(x[-1:], (32, 32), (2, 2), (2, 2))[0])
