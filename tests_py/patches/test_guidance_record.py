# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What self-attention guidance records, and the blur that it asks for."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from attnpatch import sag_blur
from attnpatch.engine import Call, PatchStack, Site, token_grid
from attnpatch.patches import Area, AttentionRecord, CallRecord, SelfAttentionGuidance
from flat_attention import attend_flat

HEADS = 2
ORDERS = [[0], [1], [1, 0], [0, 1], [0, 1, 2], [1, 1, 0, 0]]


def attention(q, k, v):
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def close(found, expected):
    """Equal up to the rounding of sharp softmaxes in float32."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def column_mean(q, k):
    q, k = (x.double().unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k))
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(1).sum(1).float()


def run_call(table, chunks, rows, record, *, latent=(10, 14), seed=0, plain=True):
    """Run the middle block's self-attention; returns the column means of all rows."""
    run = PatchStack([SelfAttentionGuidance()]).bind(table)
    call = Call(latent=latent, batch=len(chunks) * rows, chunks=tuple(chunks), record=record)
    site = Site.over_image(table.find("middle", 0, 0), call)
    generator = torch.Generator().manual_seed(seed)
    shape = (call.batch, site.grid[0] * site.grid[1], 64)
    q, k, v = 2 * torch.randn(3, *shape, generator=generator)
    acting = run.at(site)
    if acting is not None:
        out = attend_flat(acting, q, k, v, HEADS, attention, is_softmax=plain)
        close(out, attention(q, k, v))
    return column_mean(q, k)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("chunks", ORDERS)
def test_uncond_rows_of_every_order(table, chunks, rows, plain):
    record = AttentionRecord()
    means = run_call(table, chunks, rows, record, plain=plain).unflatten(0, (len(chunks), rows))
    wanted = [means[i] for i, kind in enumerate(chunks) if kind == 1]
    if not wanted:
        assert not record
        with pytest.raises(ValueError, match="nothing was recorded"):
            record.saliency(rows, (10, 14))
        return
    found = record.saliency(rows * len(wanted), (10, 14))
    close(found, torch.cat(wanted).unflatten(1, (5, 7)))


def test_calls_of_a_step_are_put_together_in_order(table):
    """cond and uncond in calls of their own, and a batch in pieces."""
    record = AttentionRecord()
    first = run_call(table, [1], 2, record, seed=1)
    run_call(table, [0], 4, record, seed=2)
    second = run_call(table, [0, 1], 2, record, seed=3)[2:]
    found = record.saliency(4, (10, 14))
    close(found.flatten(1), torch.cat([first, second]))


def test_rows_that_the_host_names(table):
    record = AttentionRecord()
    second = run_call(table, [1], 2, CallRecord(record, places=(3, 1)), seed=1)
    first = run_call(table, [1], 2, CallRecord(record, places=(0, 2)), seed=2)
    found = record.saliency(4, (10, 14)).flatten(1)
    close(found, torch.stack([first[0], second[1], first[1], second[0]]))


def test_several_conditionings_are_averaged(table):
    record = AttentionRecord()
    both = run_call(table, [1, 1], 2, CallRecord(record, "ab")).unflatten(0, (2, 2))
    found = record.saliency(2, (10, 14))
    mean = F.interpolate(both.mean(0).view(2, 1, 5, 7), (10, 14))[:, 0]
    close(found, mean)


def test_areas(table):
    record = AttentionRecord()
    left = run_call(table, [1], 1, CallRecord(record, "a"), latent=(10, 8), seed=1)
    right = run_call(table, [1], 1, CallRecord(record, "b"), latent=(10, 9), seed=2)
    areas = {"a": Area(0, 0, 10, 8), "b": Area(0, 5, 10, 9)}
    found = record.saliency(1, (12, 14), areas)[0]
    a = F.interpolate(left.view(1, 1, 5, 4), (10, 8))[0, 0]
    b = F.interpolate(right.view(1, 1, 5, 5), (10, 9))[0, 0]
    close(found[:10, :5], a[:, :5])
    close(found[:10, 5:8], (a[:, 5:] + b[:, :3]) / 2)
    close(found[:10, 8:], b[:, 3:])
    assert not found[10:].any()


def test_an_area_over_the_end(table):
    record = AttentionRecord()
    left = run_call(table, [1], 1, CallRecord(record, "a"), latent=(10, 8), seed=1)
    found = record.saliency(1, (12, 14), {"a": Area(6, 10, 10, 8)})[0]
    shown = F.interpolate(left.view(1, 1, 5, 4), (10, 8))[0, 0]
    close(found.roll((6, 4), (0, 1))[:10, :8], shown)
    assert found.count_nonzero() == shown.count_nonzero()


def test_a_record_of_cond(table):
    record = AttentionRecord(role=0)
    means = run_call(table, [0], 2, record)
    close(record.saliency(2, (10, 14)).flatten(1), means)


def reference_blur(x0, mask, sigma):
    taps = torch.exp(-0.5 * (torch.linspace(-4, 4, 9) / sigma) ** 2)
    kernel = (torch.outer(taps, taps) / taps.sum() ** 2).expand(x0.shape[1], 1, 9, 9)
    blurred = F.conv2d(F.pad(x0, (4,) * 4, mode="reflect"), kernel, groups=x0.shape[1])
    mask = F.interpolate(mask[:, None].float(), x0.shape[2:])
    return blurred * mask + x0 * (1 - mask)


@pytest.mark.parametrize("form", ["means", "map", "heads"])
def test_sag_blur_of_both_kinds_of_input(form):
    generator = torch.Generator().manual_seed(7)
    x0 = torch.randn(2, 4, 9, 13, generator=generator)
    maps = torch.randn(2, 3, 35, 35, generator=generator).softmax(-1)
    means = maps.mean(1).sum(1)
    given_ = {"means": means, "map": maps.flatten(0, 1), "heads": maps}[form]
    expected = reference_blur(x0, means.view(2, 5, 7) > 1.02, 1.5)
    close(sag_blur(x0, given_, 1.5, 1.02), expected)
    close(sag_blur(x0, given_, 1.5, 1.02, (5, 7)), expected)
    assert torch.equal(sag_blur(x0, given_, 0.0), x0)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2), st.floats(0, 1e4))
def test_sag_blur_of_the_smallest_latents(height, width, level, sigma):
    x0 = torch.linspace(-1, 1, 2 * height * width).view(1, 2, height, width)
    grid = token_grid(height, width, level)
    attention = torch.full((1, grid[0] * grid[1]), 2.0)
    found = sag_blur(x0, attention, sigma, token_grid=grid)
    assert found.isfinite().all()
    assert x0.min() - 1e-6 <= found.min() and found.max() <= x0.max() + 1e-6
    assert torch.equal(sag_blur(x0, attention, sigma, 3.0, grid), x0)


WRONG = [
    ((1, 4, 8), (1, 16), "x0: expected"),
    ((1, 4, 8, 8), (2, 16), "attention: 2 rows of 16 tokens, but x0 has 1 rows"),
    ((1, 4, 8, 8), (1, 17), "token_grid: 17 tokens are no halving of a 8×8 latent"),
    ((1, 4, 8, 8), (2, 16, 17), "attention: expected column means"),
]


@pytest.mark.parametrize(("x0", "attention", "message"), WRONG)
def test_shapes_that_do_not_fit_are_named(x0, attention, message):
    with pytest.raises(ValueError, match=message):
        sag_blur(torch.zeros(x0), torch.zeros(attention))
