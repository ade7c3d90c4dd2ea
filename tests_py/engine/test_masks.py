# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnpatch.engine import resize_mask, token_grid
from attnpatch.engine.masks import MASK_RESIZE_MODES, MaskPyramid, to_mask

sizes = st.integers(1, 40)


def test_to_mask_reads_two_and_three_dimensions():
    half = np.zeros((4, 6), dtype=bool)
    half[:, :3] = True
    mask = to_mask(half)
    assert mask.shape == (1, 4, 6) and mask.dtype == torch.float32 and mask.sum() == 12
    given = torch.ones(2, 4, 6)
    mask = to_mask(given)
    given.zero_()
    assert mask.sum() == 48  # a copy: the host may reuse its tensor


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4, 4), (0, 4), (2, 4, 0)])
def test_to_mask_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="mask: expected shape"):
        to_mask(torch.zeros(shape))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(np.fliplr, id="flipped"),
        pytest.param(lambda mask: mask[::-2, ::3], id="steps"),
        pytest.param(lambda mask: mask.T, id="turned"),
        pytest.param(lambda mask: mask.astype(">f4"), id="other order of bytes"),
        pytest.param(lambda mask: np.broadcast_to(mask[:1], (4, 6)), id="not to be written"),
    ],
)
def test_to_mask_reads_any_array(change):
    mask = change(np.arange(24, dtype=np.float32).reshape(4, 6) / 24)
    assert to_mask(mask)[0].tolist() == mask.tolist()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_to_mask_refuses_colours(channels):
    with pytest.raises(ValueError, match="has its colours last"):
        to_mask(np.zeros((8, 8, channels), dtype=np.uint8))


def test_to_mask_refuses_nan():
    with pytest.raises(ValueError, match="finite"):
        to_mask(torch.tensor([[float("nan")]]))


@given(sizes, sizes, sizes, sizes, st.sampled_from(MASK_RESIZE_MODES))
def test_a_full_mask_stays_full(height, width, h, w, mode):
    resized = resize_mask(torch.ones(2, height, width), (h, w), mode)
    torch.testing.assert_close(resized, torch.ones(2, h * w))


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 3), st.data())
def test_regions_land_on_their_tokens(height, width, level, data):
    """A mask that is constant on each token's own pixels is found again, whatever the grid."""
    h, w = token_grid(height, width, level)
    seed = data.draw(st.integers(0, 1000))
    tokens = torch.rand(1, h, w, generator=torch.Generator().manual_seed(seed)).round()
    mask = tokens.repeat_interleave(8, 1).repeat_interleave(8, 2)
    for mode in ("bilinear", "area", "nearest"):
        assert torch.equal(resize_mask(mask, (h, w), mode), tokens.flatten(1)), mode


@pytest.mark.parametrize(("height", "width"), [(34, 11), (11, 34), (135, 76), (65, 97)])
def test_odd_grids_keep_rows_and_columns(height, width):
    """Left of a mask is left in the tokens: a grid guessed from their number would shear it."""
    for level in range(3):
        h, w = token_grid(height, width, level)
        mask = torch.zeros(1, height * 8, width * 8)
        mask[:, :, : width * 4] = 1
        resized = resize_mask(mask, (h, w)).view(h, w)
        torch.testing.assert_close(resized, resized[:1].expand(h, w))
        assert resized.sum() / h == pytest.approx(w / 2, abs=0.51)
        assert bool((resized[0].diff() <= 1e-6).all())


def test_bilinear_is_torchs_own():
    mask = torch.rand(2, 61, 47, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(mask[None], size=(34, 11), mode="bilinear")
    assert torch.equal(resize_mask(mask, (34, 11)), expected[0].flatten(1))
    with pytest.raises(ValueError, match="mask_resize"):
        resize_mask(mask, (34, 11), "cubic")


def test_pyramid_makes_each_grid_once():
    pyramid = MaskPyramid(torch.rand(1, 8, 8), "bilinear")
    assert pyramid.at((4, 4)) is pyramid.at((4, 4))
    assert pyramid.at((8, 8)).shape == (1, 64)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_whole_numbers_are_parts_of_the_highest(dtype):
    """As pictures have them; masks of 0 and 1 are factors in any dtype."""
    top = torch.iinfo(dtype).max
    levels = torch.tensor([[0, top // 5, top]]).to(dtype)
    torch.testing.assert_close(to_mask(levels), torch.tensor([[[0.0, 0.2, 1.0]]]))
    for binary in (dtype, torch.int64, torch.bool):
        zeros_and_ones = torch.tensor([[0, 1]]).to(binary)
        assert torch.equal(to_mask(zeros_and_ones), torch.tensor([[[0.0, 1.0]]]))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.tensor([[0, 255]]), ValueError, r"mask: expected floats, .*int64 from 0 to 255"),
        (torch.tensor([[-1, 0]]), ValueError, r"mask: expected floats, .*int64 from -1 to 0"),
        (torch.ones(16, 16, 3), ValueError, "mask: .* colours last"),
        (torch.ones(4, 4, dtype=torch.complex64), ValueError, "mask: expected shape"),
        (object(), TypeError, "mask: expected an array or tensor, .* got object"),
    ],
)
def test_masks_that_are_not_understood(mask, error, message):
    with pytest.raises(error, match=message):
        to_mask(mask)
