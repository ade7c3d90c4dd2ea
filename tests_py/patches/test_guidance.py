# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance by degraded predictions: values, blocks, stages, and the arithmetic."""

import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from attnpatch.engine import Call, PatchStack, Site, Weight, layer_table
from attnpatch.patches import (
    AttentionRecord,
    Guidance,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SmoothedEnergyGuidance,
    degraded_passes,
    find_blocks,
    guide,
)
from attnpatch.patches.guidance.pag_seg import blur_tokens
from flat_attention import attend_flat

KINDS = [SelfAttentionGuidance, PerturbedAttentionGuidance, SmoothedEnergyGuidance]
HEADS = 2


@pytest.mark.parametrize("kind", KINDS)
def test_values(kind, tmp_path):
    guidance = kind(2.0, blocks=" M0 ,u0", start=0.1, end=0.9, rescale=0.5)
    assert guidance.blocks == "m0,u0"
    assert guidance == kind(2, blocks="m0,u0", start=0.1, end=0.9, rescale=0.5)
    assert guidance != kind(2.0)
    assert eval(repr(guidance)) == guidance
    assert repr(kind()) == f"{kind.__name__}(scale={kind().scale})"
    assert pickle.loads(pickle.dumps(guidance)) == guidance
    with pytest.raises(AttributeError):
        guidance.scale = 1.0
    stack = PatchStack([guidance, kind()])
    stack.save(tmp_path / "stack.safetensors")
    assert PatchStack.load(tmp_path / "stack.safetensors") == stack


def test_infinite_sigma_is_written_in_any_way(tmp_path):
    infinite = SmoothedEnergyGuidance()
    assert infinite.blur_sigma == math.inf
    assert SmoothedEnergyGuidance(blur_sigma=-1.0) == infinite
    assert PatchStack([infinite])[0].state()[0]["blur_sigma"] == -1.0


WRONG = [
    ({"scale": math.nan}, "scale: expected a finite number"),
    ({"scale": "3"}, "scale: expected a number"),
    ({"start": math.inf}, "start: expected a finite"),
    ({"rescale": 1.5}, "rescale: expected 0 to 1, got 1.5"),
    ({"rescale_mode": "none"}, "rescale_mode: expected 'full', 'partial', 'snf'; got 'none'"),
    ({"scale": Weight(2.0, {6: 1.0})}, "scale: .* expected a Weight without layers"),
    ({"scale": torch.ones(2, 2)}, r"scale: expected a tensor of shape \(samples,\)"),
    ({"blocks": "x1"}, "blocks: expected d, m or u"),
    ({"blocks": "d3-1"}, "blocks: expected d, m or u"),
    ({"blocks": " , "}, "blocks: expected at least one"),
    ({"blocks": 3}, "blocks: expected a text"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_values_are_named(kind, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        kind(**options)


def test_wrong_blur_is_named():
    for name in ("blur_sigma", "threshold"):
        for value in (-1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"{name}: expected"):
                SelfAttentionGuidance(**{name: value})
    with pytest.raises(ValueError, match="blur_sigma: expected"):
        SmoothedEnergyGuidance(blur_sigma=math.nan)
    with pytest.raises(TypeError, match="blur_sigma: expected"):
        SmoothedEnergyGuidance(blur_sigma="inf")


def keys(family, blocks):
    found = find_blocks(layer_table(family), blocks)
    return sorted((x.block, x.number, x.transformer) for x in found)


BLOCKS = [
    ("sd1", "m0", [("middle", 0, 0)]),
    ("sd1", "d0", [("input", 1, 0)]),
    ("sd1", "d5", [("input", 8, 0)]),
    ("sd1", "u0,u8", [("output", 3, 0), ("output", 11, 0)]),
    ("sd1", "d1-2", [("input", 2, 0), ("input", 4, 0)]),
    ("sd1", "d1-d2", [("input", 2, 0), ("input", 4, 0)]),
    ("sdxl", "d0", [("input", 4, 0), ("input", 4, 1)]),
    ("sdxl", "m0.7", [("middle", 0, 7)]),
    ("sdxl", "u0.4", [("output", 0, 4)]),
    ("sdxl", "d2.2-9", [("input", 7, i) for i in range(2, 10)]),
    ("sdxl", " M0 . 7, d2 . 2 - 3,", [("input", 7, 2), ("input", 7, 3), ("middle", 0, 7)]),
    ("sdxl", "u4-5.1", [("output", 4, 1), ("output", 5, 1)]),
]


@pytest.mark.parametrize(("family", "blocks", "expected"), BLOCKS)
def test_blocks_are_counted_as_the_field_does(family, blocks, expected):
    assert keys(family, blocks) == expected


def test_all_blocks_that_the_field_names_are_there():
    assert len(keys("sd1", "d0-5,m0,u0-8")) == 16
    assert len(keys("sdxl", "d0-3,m0,u0-5")) == 70


@pytest.mark.parametrize("blocks", ["u9", "d6", "m1", "m0.1", "d0.0-1", "d5-6"])
def test_unknown_blocks_say_what_there_is(blocks):
    with pytest.raises(ValueError, match=r"blocks: .* is not in this UNet .*has d0, d1, .*u8"):
        PerturbedAttentionGuidance(blocks=blocks).bind(layer_table("sd1"))
    with pytest.raises(ValueError, match=r"d0\.0-1, .*m0\.0-9"):
        find_blocks(layer_table("sdxl"), "m3")


def attention(q, k, v):
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def states(call, layer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    site = Site.over_image(layer, call)
    shape = (call.batch, site.grid[0] * site.grid[1], layer.channels)
    return site, [torch.randn(shape, generator=generator) for _ in range(3)]


def attend(run, call, layer, plain=True):
    site, (q, k, v) = states(call, layer)
    acting = run.at(site)
    base = attention(q, k, v)
    if acting is None:
        return None, base, (q, k, v)
    return attend_flat(acting, q, k, v, HEADS, attention, is_softmax=plain), base, (q, k, v)


def test_perturbed_attention_in_its_own_chunks_only(table):
    middle = table.find("middle", 0, 0)
    run = PatchStack([SelfAttentionGuidance(), PerturbedAttentionGuidance()]).bind(table)
    call = Call(latent=(6, 5), batch=6, chunks=(1, 0, 0), degraded=(0, 1, -1))
    out, base, (_, _, v) = attend(run, call, middle)
    assert torch.equal(out[2:4], v[2:4])
    assert torch.equal(out[:2], base[:2])
    assert torch.equal(out[4:], base[4:])
    alone = Call(latent=(6, 5), batch=2, chunks=(0,), degraded=(1,))
    out, _, (_, _, v) = attend(run, alone, middle)
    assert torch.equal(out, v)
    for silent in (
        Call(latent=(6, 5), batch=2, chunks=(1, 0)),
        Call(latent=(6, 5), batch=2, chunks=(1, 0), degraded=(0, -1)),
    ):
        assert attend(run, silent, middle)[0] is None
    assert attend(run, alone, table[0])[0] is None, "another block"


@pytest.mark.parametrize(
    "patch", [PerturbedAttentionGuidance(), SmoothedEnergyGuidance(), SelfAttentionGuidance()]
)
def test_a_batch_that_is_cut_up_is_named(table, patch):
    """One row of it would have been taken for any other."""
    run = PatchStack([patch]).bind(table)
    degraded = () if patch.records else (0, -1)
    call = Call(
        latent=(6, 5),
        batch=2,
        chunks=(1, 0),
        degraded=degraded,
        record=AttentionRecord() if patch.records else None,
    )
    site, tensors = states(call, table.find("middle", 0, 0))
    with pytest.raises(ValueError, match=r"q: expected the 2 rows of the call at mid_.*, got 1"):
        attend_flat(run.at(site), *(t[:1] for t in tensors), HEADS, attention)


def test_equal_patches_are_told_apart_by_their_place(table):
    middle = table.find("middle", 0, 0)
    run = PatchStack([SmoothedEnergyGuidance()] * 2 + [PerturbedAttentionGuidance()]).bind(table)
    call = Call(latent=(6, 5), batch=3, chunks=(0, 0, 0), degraded=(2, 0, 1))
    out, _, (q, k, v) = attend(run, call, middle)
    smooth = attention(q.mean(1, keepdim=True).expand_as(q), k, v)
    torch.testing.assert_close(out, torch.stack([v[0], smooth[1], smooth[2]]))


@pytest.mark.parametrize("sigma", [0.0, 1.0, 100.0, math.inf])
def test_smoothed_energy(table, sigma):
    middle = table.find("middle", 0, 0)
    run = PatchStack([SmoothedEnergyGuidance(blur_sigma=sigma)]).bind(table)
    call = Call(latent=(6, 5), batch=2, chunks=(1, 0), degraded=(-1, 0))
    out, base, (q, k, v) = attend(run, call, middle)
    if sigma == 0:
        assert out is None
        return
    assert torch.equal(out[0], base[0])
    smooth = attention(blur_tokens(q, (3, 3), sigma), k, v)
    torch.testing.assert_close(out[1], smooth[1])
    assert not torch.allclose(out[1], base[1])


def reference_blur(tokens, grid, sigma):
    """A square kernel and torch's reflect padding, for grids that it takes."""
    size = min(math.ceil(6 * sigma) | 1, grid[1] - (grid[1] % 2 - 1))
    taps = torch.exp(-0.5 * (torch.arange(size, dtype=torch.float64) - size // 2) ** 2 / sigma**2)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    maps = tokens.double().transpose(1, 2).reshape(-1, 1, *grid)
    maps = F.conv2d(F.pad(maps, (size // 2,) * 4, mode="reflect"), kernel[None, None])
    return maps.reshape(tokens.shape[0], tokens.shape[2], -1).transpose(1, 2).float()


@pytest.mark.parametrize(("grid", "sigma"), [((8, 8), 1.0), ((8, 8), 40.0), ((12, 7), 0.6)])
def test_blur_of_tokens(grid, sigma):
    tokens = torch.randn(2, grid[0] * grid[1], 6, generator=torch.Generator().manual_seed(1))
    expected = reference_blur(tokens, grid, sigma)
    torch.testing.assert_close(blur_tokens(tokens, grid, sigma), expected)


@pytest.mark.parametrize("sigma", [1e-300, 1.0, 5.0, 1e300])
@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (2, 3), (5, 2)])
def test_blur_of_the_smallest_grids_keeps_constants(grid, sigma):
    tokens = torch.full((1, grid[0] * grid[1], 3), 2.5)
    torch.testing.assert_close(blur_tokens(tokens, grid, sigma), tokens)


def test_nothing_is_recorded_without_a_record_nor_in_degraded_passes(table):
    run = PatchStack([SelfAttentionGuidance()]).bind(table)
    middle = table.find("middle", 0, 0)
    record = AttentionRecord()
    for call in (
        Call(latent=(6, 5), batch=2, chunks=(1, 0)),
        Call(latent=(6, 5), batch=2, chunks=(0,), record=record),
        Call(latent=(6, 5), batch=2, chunks=(1,), degraded=(0,), record=record),
        Call(latent=(4, 9), batch=2, chunks=(1, 0), record=record),
    ):
        assert attend(run, call, middle)[0] is None
    assert not record


def test_passes_of_a_step():
    sag, pag = SelfAttentionGuidance(start=0.5), PerturbedAttentionGuidance()
    stack = PatchStack([pag, SmoothedEnergyGuidance(0.0), sag])
    found = degraded_passes(stack, (8, 8), 0.7)
    assert [(one.index, one.role) for one in found] == [(0, 0), (2, 1)]
    assert [one.index for one in degraded_passes(stack, (8, 8), 0.2)] == [0]
    assert [one.index for one in degraded_passes(stack, (4, 64), 0.7)] == [0]
    with pytest.raises(ValueError, match="progress: guidance with start or end needs it"):
        degraded_passes(stack, (8, 8), None)


def test_the_sum():
    generator = torch.Generator().manual_seed(3)
    cfg, cond, a, b, start = torch.randn(5, 2, 4, 6, 6, generator=generator)
    stack = PatchStack([PerturbedAttentionGuidance(2.0), SelfAttentionGuidance(0.5)])
    passes = degraded_passes(stack, (6, 6), None)
    found = guide(cfg, cond, None, passes, [cond, start], [a, b])
    torch.testing.assert_close(found, 2 * (cond - a) + 0.5 * (start - b))


CURVE = ((0.0, 1.0), (0.5, 0.0))


@pytest.mark.parametrize("kind", KINDS)
def test_scales_over_progress_and_pictures(kind, tmp_path):
    guidance = kind(Weight(2.0, curve=CURVE, samples=torch.tensor([1.0, 0.0, -0.5])))
    assert guidance == kind(Weight(2.0, curve=CURVE, samples=(1.0, 0.0, -0.5)))
    assert hash(guidance) == hash(eval(repr(guidance)))
    assert guidance.samples == 3 and kind(2.0).samples == 1
    assert kind(Weight(2.0)) == kind(torch.tensor(2.0)) == kind(2.0)
    PatchStack([guidance]).save(tmp_path / "stack.safetensors")
    assert list(PatchStack.load(tmp_path / "stack.safetensors")) == [guidance]
    assert pickle.loads(pickle.dumps(guidance)) == guidance
    assert guidance.acts((8, 8), 0.25) and not guidance.acts((8, 8), 0.5)
    with pytest.raises(ValueError, match="progress: a weight with a curve needs it"):
        guidance.acts((8, 8), None)
    assert not kind(torch.zeros(3)).acts((8, 8), None)
    (one,) = degraded_passes([guidance], (8, 8), 0.25)
    cond, a = torch.randn(2, 6, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    found = guide(cond, cond, None, [one], [cond], [a], samples=(0, 0, 1, 1, 2, 2))
    factors = torch.tensor([1.0, 1.0, 0.0, 0.0, -0.5, -0.5]).view(6, 1, 1, 1)
    torch.testing.assert_close(found, factors * (cond - a))
    with pytest.raises(ValueError, match="scale: "):
        guide(cond[:4], cond[:4], None, [one], [cond[:4]], [a[:4]])


def test_frames_of_a_video_are_pictures():
    (one,) = degraded_passes([PerturbedAttentionGuidance(torch.tensor([1.0, 3.0]))], (6, 6), None)
    cond, a = torch.randn(2, 1, 4, 2, 6, 6, generator=torch.Generator().manual_seed(8))
    found = guide(cond, cond, None, [one], [cond], [a])
    torch.testing.assert_close(found, torch.tensor([1.0, 3.0]).view(2, 1, 1) * (cond - a))


@pytest.mark.parametrize("adaptive", [0.0, 0.2, 0.5, 1.0])
def test_adaptive_scale_weakens_perturbed_attention(adaptive):
    guidance = PerturbedAttentionGuidance(3.0, adaptive_scale=adaptive)
    assert eval(repr(guidance)) == guidance
    for timestep in (999, 700, 300, 0):
        expected = max(0.0, 3.0 - 3.0 * adaptive**4 * (1000 - timestep))
        progress = 1 - timestep / 999
        assert guidance.strength(progress) == pytest.approx(expected, abs=1e-9)
    assert guidance.acts((8, 8), 1.0) == (adaptive < 0.17)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="adaptive_scale: expected"):
            PerturbedAttentionGuidance(adaptive_scale=wrong)
    if adaptive:
        with pytest.raises(ValueError, match="progress: adaptive_scale needs it"):
            guidance.acts((8, 8), None)


def test_the_more_salient_guidance_rules_a_pixel():
    """Saliency-adaptive fusion of the two, written out."""
    generator = torch.Generator().manual_seed(9)
    cfg, cond, uncond, prediction = torch.randn(4, 2, 3, 7, 6, generator=generator)
    guidance = PerturbedAttentionGuidance(2.0, rescale_mode="snf", rescale=0.5)
    assert guidance.needs_uncond and not PerturbedAttentionGuidance().needs_uncond
    passes = degraded_passes([guidance], (7, 6), None)
    found = guide(cfg, cond, uncond, passes, [cond], [prediction])

    def salience(term):
        taps = torch.exp(torch.tensor([-0.5, 0.0, -0.5]))
        kernel = (torch.outer(taps, taps) / taps.sum() ** 2).expand(3, 1, 3, 3)
        blurred = F.conv2d(F.pad(term.abs(), (1,) * 4, mode="reflect"), kernel, groups=3)
        return blurred.flatten(2).softmax(2).view_as(term)

    term = 2 * (cond - prediction)
    chosen = torch.where(salience(term) > salience(cfg - uncond), term, cfg - uncond)
    torch.testing.assert_close(cfg + found, uncond + chosen)
    assert 0.2 < (chosen == term).float().mean() < 0.8
    alone = guide(cfg, cond, None, passes, [cond], [prediction])
    torch.testing.assert_close(alone, term)


@pytest.mark.parametrize("mode", ["full", "partial"])
def test_rescale(mode):
    generator = torch.Generator().manual_seed(4)
    cfg, cond, prediction = torch.randn(3, 2, 4, 6, 6, generator=generator)
    passes = degraded_passes(
        [PerturbedAttentionGuidance(5.0, rescale=0.7, rescale_mode=mode)], (6, 6), None
    )
    term = 5 * (cond - prediction)
    expected = []
    for row in range(2):
        whole = (cfg if mode == "full" else cond)[row] + term[row]
        expected.append(term[row] * (0.7 * cond[row].std() / whole.std() + 0.3))
    found = guide(cfg, cond, None, passes, [cond], [prediction])
    torch.testing.assert_close(found, torch.stack(expected))
    flat = torch.zeros_like(cond)
    assert guide(flat, flat, None, passes, [flat], [flat]).isfinite().all()


@pytest.mark.parametrize("mode", ["full", "partial"])
def test_gradients_go_through_rescale(mode):
    generator = torch.Generator().manual_seed(6)
    values = torch.randn(3, 1, 2, 3, 3, generator=generator, dtype=torch.float64)
    cfg, cond, prediction = (value.requires_grad_() for value in values.unbind())
    passes = degraded_passes(
        [PerturbedAttentionGuidance(5.0, rescale=0.7, rescale_mode=mode)], (6, 6), None
    )
    torch.autograd.gradcheck(
        lambda cfg, cond, prediction: guide(cfg, cond, None, passes, [cond], [prediction]),
        (cfg, cond, prediction),
    )


def test_rescale_sees_what_the_passes_before_added():
    generator = torch.Generator().manual_seed(5)
    cfg, cond, a, b = torch.randn(4, 1, 4, 6, 6, generator=generator)
    first, second = PerturbedAttentionGuidance(2.0), SmoothedEnergyGuidance(3.0, rescale=1.0)
    passes = degraded_passes([first, second], (6, 6), None)
    alone = 2 * (cond - a)
    expected = alone + guide(cfg + alone, cond, None, passes[1:], [cond], [b])
    torch.testing.assert_close(guide(cfg, cond, None, passes, [cond, cond], [a, b]), expected)


def test_reports_say_why(table):
    run = PatchStack([PerturbedAttentionGuidance()]).bind(table)
    assert run.layers_over("image") == (table.find("middle", 0, 0),)
    assert run.layers_over("text") == ()
    assert "not of the blocks m0" in str(run.report().skipped[0])
    assert not PatchStack([PerturbedAttentionGuidance(0.0)]).bind(table).layers_over("image")
    assert issubclass(SelfAttentionGuidance, Guidance)
