# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The operators in plain torch: exactness against float64, as the kernels are held to it."""

import importlib
import math

import pytest
import test_attention_column_mean as column_mean
import test_blur_and_blend as blur
import test_branch_attention as branch
import test_pool_tokens as pool
import test_tile_attention as tile
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from moving import exact
from tilings import tilings

from attnpatch.ops import Tiling, plain

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ROUNDED = {torch.float32: 0.0, torch.float16: 1e-4, torch.bfloat16: 1e-4}
"""How far torch's kernel for the CPU is off in a log-sum-exp of 16-bit types."""
BOUNDS = {torch.float32: 4e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def assert_close(found, expected, bound):
    torch.testing.assert_close(exact(found), expected, rtol=bound, atol=bound, check_stride=False)


def assert_heads_in_rows(out):
    assert out.transpose(1, 2).is_contiguous()


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40)),
    size=st.integers(1, 50),
    dtype=st.sampled_from(DTYPES),
    scale=st.floats(-2, 2),
)
def test_log_sum_exps_are_those_of_the_scores(shape, size, dtype, scale):
    q, k, v = column_mean.make_inputs(*shape, 29, size, dtype)
    out, lse = plain.attention_with_lse(q, k, v, scale)
    scores = exact(q) @ exact(k).mT * scale
    bound = 2e-6 * (1 + float(scores.abs().max())) + ROUNDED[dtype]
    torch.testing.assert_close(exact(lse), scores.logsumexp(3), rtol=0, atol=bound)
    assert_close(out, scores.softmax(3) @ exact(v), BOUNDS[dtype] + bound)


@settings(max_examples=150)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 40)),
    size=st.integers(1, 50),
    text=st.integers(0, 20),
    branches=st.lists(st.integers(1, 9), max_size=4),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(list(column_mean.LAYOUTS)),
    data=st.data(),
)
def test_branch_attention_equals_the_formula(shape, size, text, branches, dtype, layout, data):
    inputs = branch.make_inputs(*shape, size, text, branches, dtype)
    shared_softmax = data.draw(st.integers(0, len(branches) if text else 0))
    for rows, weights in zip(inputs[5], inputs[6], strict=True):
        rows[0] = data.draw(st.integers(-2, 2))
        weights[-1] = data.draw(st.sampled_from([0.0, 0.5, 2.0]))
    mask_rows = data.draw(st.sampled_from([0, 1, shape[0]]))
    masks = branch.random_masks(inputs, mask_rows) if mask_rows and branches else None
    if masks is not None:
        masks[..., ::2] *= data.draw(st.sampled_from([0.0, 1.0]))
    expected = branch.formula(inputs, masks, shared_softmax)
    inputs[:3] = map(column_mean.LAYOUTS[layout], inputs[:3])
    if layout.endswith("one memory"):
        expected = branch.formula(inputs, masks, shared_softmax)
    out = plain.branch_attention(*inputs, masks, shared_softmax)
    assert out.dtype == dtype
    assert_heads_in_rows(out)
    assert_close(out, expected, BOUNDS[dtype])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shared_softmax", [0, 1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nothing_of_a_branch_that_is_off_arrives(shared_softmax, masked, value):
    """Whatever stands in its tensors: by its row, its weight, or its mask."""
    inputs = branch.make_inputs(3)
    masks = branch.random_masks(inputs, 3) if masked else None
    inputs[5][0][:] = torch.tensor([-1, 1, 2])
    inputs[6][0, 1] = 0.0
    if masked:
        masks[0, 2, ::2] = 0.0
    expected = plain.branch_attention(*inputs, masks, shared_softmax)
    k, v = inputs[3][0], inputs[4][0]
    for row in (0, 1):
        k[row], v[row] = value, value
    if masked:
        k[2, :, 1], v[2, :, 2] = value, value
    out = plain.branch_attention(*inputs, masks, shared_softmax)
    off = torch.ones(3, 37, dtype=torch.bool)
    if masked:
        off[2] = masks[0, 2] == 0.0
    for b, n in off.nonzero().tolist():
        assert torch.equal(out[b, :, n], expected[b, :, n])
    assert out[~off[:, None].expand(-1, 3, -1)].isfinite().sum() == 0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shared_softmax", [0, 1])
def test_a_row_that_is_not_there_gives_no_number(shared_softmax, masked):
    inputs = branch.make_inputs(branches=(4,))
    inputs[5][0] = torch.tensor([0, 3])
    masks = branch.random_masks(inputs, 1) if masked else None
    out = plain.branch_attention(*inputs, masks, shared_softmax)
    assert out.isnan().flatten(1).all(dim=1).tolist() == [False, True]
    assert out[0].isfinite().all()


@pytest.mark.parametrize("count", [0, 3])
def test_so_does_one_of_a_branch_without_keys(count):
    inputs = branch.make_inputs(branches=(0,))
    inputs[3] = inputs[4] = [inputs[3][0][:count]]
    inputs[5][0] = torch.tensor([-1, count])
    out = plain.branch_attention(*inputs)
    assert out.isnan().flatten(1).all(dim=1).tolist() == [False, True]
    assert out[0].isfinite().all()


def test_one_softmax_keeps_a_text_that_other_scores_dwarf():
    """Where the mask is 0 the text counts alone, however large the image's scores are."""
    inputs = branch.make_inputs(branches=(4,))
    inputs[3][0] *= 1e3
    masks = torch.zeros(1, 1, 37)
    out = plain.branch_attention(*inputs, masks, 1)
    assert torch.equal(out, F.scaled_dot_product_attention(*inputs[:3]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shared_softmax", [0, 1])
def test_error_of_branch_attention_is_that_of_torch(dtype, shared_softmax):
    inputs = branch.make_inputs(2, 8, 256, 64, 77, (16,), dtype)
    inputs[6].fill_(1.0)
    inputs[5] = [torch.tensor([0, 1])]
    q, k, v, (bk,), (bv,), _, _ = inputs
    expected = branch.formula(inputs, None, shared_softmax)
    attend = F.scaled_dot_product_attention
    if shared_softmax:
        theirs = attend(q, torch.cat([k, bk[:2]], 2), torch.cat([v, bv[:2]], 2))
    else:
        theirs = attend(q, k, v) + attend(q, bk[:2], bv[:2])
    ours = (exact(plain.branch_attention(*inputs, None, shared_softmax)) - expected).norm()
    # Two results are rounded before they are merged.
    assert ours <= (1.5 if shared_softmax else 1.01) * (exact(theirs) - expected).norm()


@settings(max_examples=120)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 90), st.integers(1, 90)),
    size=st.integers(1, 50) | st.sampled_from([64, 80, 128, 160]),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([None, 0.3, 2.0**-12, 3.0]),
    layouts=st.tuples(*[st.sampled_from(list(column_mean.LAYOUTS))] * 3),
    data=st.data(),
)
def test_column_means_equal_the_maps(shape, size, dtype, scale, layouts, data):
    inputs = column_mean.make_inputs(*shape, size, dtype)
    inputs = [column_mean.LAYOUTS[n](t) for n, t in zip(layouts, inputs, strict=True)]
    rows = data.draw(st.none() | st.lists(st.integers(0, shape[0] - 1), max_size=4))
    assert plain.takes_scale(inputs[0], scale)
    expected = column_mean.formula(*inputs, rows, scale)
    factor = size**-0.5 if scale is None else scale
    rounding = 2.0**-21 * factor * float((inputs[0].float() @ inputs[1].float().mT).abs().max())
    found = plain.attention_column_mean(*inputs, rows, scale)
    assert_heads_in_rows(found[0])
    rounding += 2 * ROUNDED[dtype]
    column_mean.assert_equals_formula(found, expected, BOUNDS[dtype] + rounding, rounding)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-30])
def test_scales_that_the_column_means_cannot_take(scale):
    assert not plain.takes_scale(torch.zeros(1, 1, 1, 8), scale)


@pytest.mark.parametrize("lse", [True, False])
@settings(max_examples=80)
@given(
    tiling=tilings(largest=9),
    stride=tile.STRIDES,
    shared=st.none() | st.integers(0, 40),
    heads=st.integers(1, 3),
    size=st.integers(1, 50),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["heads in a row", "heads apart", "channels apart", "tokens with gaps"]),
)
def test_tile_attention_equals_the_formula(lse, tiling, stride, shared, heads, size, dtype, layout):
    inputs = tile.make_inputs(tiling, stride, shared, 2, heads, size, dtype)
    expected = tile.formula(inputs)
    inputs[:3] = map(column_mean.LAYOUTS[layout], inputs[:3])
    with pytest.MonkeyPatch.context() as patch:
        module = importlib.import_module("attnpatch.ops.plain.tile_attention")
        patch.setattr(module, "has_lse", lambda q: lse)
        out = plain.tile_attention(*inputs)
    assert_heads_in_rows(out)
    assert_close(out, expected, BOUNDS[dtype])


def test_tiles_keep_what_is_not_a_number():
    inputs = tile.make_inputs(shared=5)
    inputs[1][0, 1, 0] = math.nan
    found = plain.tile_attention(*inputs).isnan()
    first = tile.tiles_of(tile.TILING)[0].flatten()
    assert found[0, 1, first].all()
    assert found.sum() == len(first) * 40


POOL_BOUNDS = {torch.float32: 1e-6, torch.float16: 1.5e-3, torch.bfloat16: 1.2e-2}


@example(Tiling((11, 13), (5, 6), (3, 2)), ((3, 2), (2, 2)), "avg", [1.0], 3, DTYPES[0], False)
@settings(max_examples=200)
@given(
    tiling=tilings(),
    steps=pool.STEPS | st.tuples(pool.TWO).map(lambda pair: pair * 2),
    mode=st.sampled_from(["avg", "max"]),
    blends=st.lists(st.sampled_from([0.0, 0.25, 1.0]), max_size=3),
    channels=st.integers(1, 9),
    dtype=st.sampled_from(DTYPES),
    first=st.booleans(),
)
def test_pool_tokens_equals_the_formula(tiling, steps, mode, blends, channels, dtype, first):
    inputs = pool.arguments(tiling, *steps, mode, blends, channels, dtype=dtype)
    if first:
        inputs[0] = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
    found = plain.pool_tokens(*inputs)
    assert all(result.is_contiguous() and result.dtype == dtype for result in found)
    assert len({result.data_ptr() for result in [inputs[0], *found]}) == len(found) + 1
    pool.check(found, pool.formula(inputs[0], tiling, *steps, mode, blends), POOL_BOUNDS[dtype])


@settings(max_examples=60)
@given(
    rows=st.integers(1, 4),
    steps=pool.TWO,
    tiles=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    ragged=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    offset=st.booleans(),
)
def test_whole_windows_in_tiles(rows, steps, tiles, ragged, offset):
    """Tiles of whole windows, where the grid is pooled at once."""
    side = (2 * steps[0], 3 * steps[1])
    grid = tuple(n * s + r for n, s, r in zip(tiles, side, ragged, strict=True))
    tiling = Tiling(grid, side, steps if offset else (0, 0))
    inputs = pool.arguments(tiling, steps, steps, "avg", [1.0, 0.0], 3, rows)
    pool.check(
        plain.pool_tokens(*inputs),
        pool.formula(inputs[0], tiling, steps, steps, "avg", [1.0, 0.0]),
        1e-6,
    )


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("place", [0, 1, 4, 5])
def test_what_is_not_a_number_stays_in_its_window(mode, place):
    inputs = pool.arguments(Tiling((4, 4), (4, 4)), (2, 2), (2, 2), mode, [1.0, 0.0])
    inputs[0][1, place, 3] = math.nan
    pooled, picked = (result.isnan() for result in plain.pool_tokens(*inputs))
    assert pooled[1, 0, 3]
    assert pooled.sum() == 1
    assert picked.sum() == (place == 0)


@given(count=st.tuples(st.integers(1, 4), st.integers(1, 4)), block=pool.TWO, first=st.booleans())
def test_the_largest_of_blocks_is_what_torch_pools(count, block, first):
    sides = [n * step for n, step in zip(count, block, strict=True)]
    field = torch.randn(2, *sides, 3, generator=torch.Generator().manual_seed(0))
    field[0, 0, 0, 1] = math.nan
    if first:
        field = field.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    module = importlib.import_module("attnpatch.ops.plain.pool_tokens")
    found = module.largest_of_blocks(field, block)
    expected = F.max_pool2d(field.permute(0, 3, 1, 2), block, block).permute(0, 2, 3, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True, check_stride=False)
    assert found.is_contiguous()


def test_large_halves_have_a_mean():
    x = torch.full((1, 16, 2), 6e4, dtype=torch.float16)
    (pooled,) = plain.pool_tokens(x, (4, 4), (4, 4), (0, 0), (2, 2), (2, 2), "avg", [1.0])
    assert torch.equal(pooled, x[:, :4])


BLUR_BOUNDS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@settings(max_examples=100)
@given(
    planes=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    side=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    grid=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    sigma=st.floats(0.026, 10.0) | st.sampled_from([math.inf, 0.0, 1e-30]),
    threshold=st.floats(0.0, 2.0),
    radius=st.integers(0, 10),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
)
def test_blur_and_blend_equals_the_formula(
    planes, side, grid, sigma, threshold, radius, dtype, channels_last
):
    x0, saliency = blur.make_inputs(*planes, side, grid, dtype)
    if channels_last:
        x0 = x0.contiguous(memory_format=torch.channels_last)
    kernel_size = 2 * radius + 1
    takes = plain.takes_kernel(x0, kernel_size)
    assert takes == (min(side) > radius)
    if takes:
        out = plain.blur_and_blend(x0, saliency, sigma, threshold, kernel_size)
        assert out.dtype == dtype
        assert out.is_contiguous()
        expected = exact(x0)
        if sigma > 0.025:
            expected = blur.formula(x0, saliency, sigma, threshold, kernel_size)
        assert_close(out, expected, BLUR_BOUNDS[dtype])


def test_blurred_infinities_stay_under_the_mask():
    x0, saliency = blur.make_inputs(side=(16, 16), grid=(2, 2))
    saliency[0] = torch.tensor([[1.0, 1.1], [math.nan, -math.inf]])
    x0[0, :, :8, :8] = math.nan
    x0[0, 0, 15, 0] = math.inf
    out = plain.blur_and_blend(x0, saliency, 2.0)
    assert torch.equal(out[0, :, 8:], x0[0, :, 8:])
    assert torch.isnan(out[0, :, :8, :8]).all()
    assert torch.isfinite(out[0, :, :8, 12:]).all()


def test_empty_inputs():
    for empty in ({"batch": 0}, {"queries": 0}):
        inputs = branch.make_inputs(**empty)
        assert plain.branch_attention(*inputs).shape == inputs[0].shape
        inputs = column_mean.make_inputs(**empty)
        out, columns = plain.attention_column_mean(*inputs)
        assert (out.shape, columns.shape) == (inputs[0].shape, (len(inputs[0]), 29))
        assert not columns.any()
    out, columns = plain.attention_column_mean(*column_mean.make_inputs(keys=0))
    assert not out.any()
    assert columns.shape == (2, 0)
    nothing = branch.make_inputs(text=0, branches=())
    assert torch.equal(plain.branch_attention(*nothing), torch.zeros(2, 3, 37, 40))
    none = branch.make_inputs(branches=(0,))
    assert_close(
        plain.branch_attention(*none), branch.formula(branch.make_inputs(branches=())), 4e-6
    )
    assert plain.tile_attention(*tile.make_inputs(batch=0)).shape == (0, 3, 130, 40)
    inputs = pool.arguments(*pool.CASE, batch=0)
    assert [r.shape for r in plain.pool_tokens(*inputs)] == [
        (0, pool.CASE[0].pooled(pool.CASE[2]), 19)
    ] * 3
    assert plain.blur_and_blend(*blur.make_inputs(batch=0), 2.0).shape == (0, 3, 24, 17)


def test_inputs_stay_as_they_were():
    for module, function in (
        (branch, plain.branch_attention),
        (column_mean, plain.attention_column_mean),
        (tile, plain.tile_attention),
    ):
        inputs = module.make_inputs()
        before = [t.clone() for t in library_flat(inputs)]
        function(*inputs)
        assert all(map(torch.equal, before, library_flat(inputs)))


def library_flat(values):
    if isinstance(values, torch.Tensor):
        return [values]
    return [t for v in values for t in library_flat(v)] if isinstance(values, (list, tuple)) else []
