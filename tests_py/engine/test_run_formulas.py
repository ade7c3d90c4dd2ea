# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a run computes, against the formulas in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnpatch.engine import Call, PatchStack, Site, Weight, resize_mask
from attnpatch.patches import ImagePrompt
from flat_attention import branches_at

SCALINGS = ["V only", "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty"]


@pytest.fixture
def expect(formulas, table):
    """Attention of a stack of image prompts at a site, row by row: docs/design/image-prompts.md."""

    def row_of(call, row):
        """Kind and picture of a row of the batch."""
        size = call.batch // len(call.chunks)
        samples = call.samples or tuple(range(size))
        return call.chunks[row // size], samples[row % size]

    def terms(prompt, site, row):
        """Keys, values, factor and mask of a prompt for a row; None: nothing."""
        kv = prompt.keys_values
        kind, picture = row_of(site.call, row)
        if kind != 0 and kv.negatives == 0:
            return None
        index = (picture if kv.pictures > 1 else 0) if kind == 0 else kv.pictures
        if kind != 0 and kv.negatives > 1:
            index += picture
        k, v = next(
            [t[index - part.first] for t in part.layers[site.layer.index]]
            for part in kv.parts
            if part.first <= index < part.first + part.rows
        )
        weight = prompt.weight.for_layers(table)[site.layer.index]
        weight *= prompt.weight.factor(site.call.progress)
        if prompt.weight.samples:
            several = len(prompt.weight.samples) > 1
            weight *= prompt.weight.samples[picture if several else 0]
        mask = torch.ones(site.grid[0] * site.grid[1], 1, dtype=torch.float64)
        if prompt.mask is not None:
            place = picture if len(prompt.mask) > 1 else 0
            mask = resize_mask(prompt.mask, site.grid)[place].double()[:, None]
        if weight == 0:
            return None
        k, v, factor = formulas.scaled(k, v, torch.tensor(weight).double(), prompt.scaling)
        return (k, v * factor, 1.0, mask) if prompt.shared_softmax else (k, v, factor, mask)

    def row(stack, site, q, k, v, b):
        found = [(p.shared_softmax, terms(p, site, b)) for p in stack]
        shared_softmax = [t for is_joint, t in found if t is not None and is_joint]
        keys = torch.cat([k.double(), *(t[0] for t in shared_softmax)])
        values = torch.cat([v.double(), *(t[1] for t in shared_softmax)])
        out = formulas.attention(q, keys, values)
        for is_joint, term in found:
            if term is not None and not is_joint:
                out += term[2] * term[3] * formulas.attention(q, term[0], term[1])
        return out

    def make(stack, site, q, k, v):
        rows = [row(stack, site, q[b], k[b], v[b], b) for b in range(len(q))]
        return torch.stack(rows)

    return make


@pytest.fixture
def check(table, qkv, expect, formulas, device):
    def run_and_compare(stack, site, tolerance=2e-6, **how):
        q, k, v = qkv(site, **how)
        on_device = [t.to(device) for t in (q, k, v)]
        out = stack.bind(table).attend(site, *on_device, heads=formulas.heads)
        assert out.device.type == device.type
        out = out.cpu()
        assert out.dtype == q.dtype and out.shape == q.shape
        expected = expect(stack, site, q, k, v)
        scale = expected.abs().max().item()
        assert (out.double() - expected).abs().max().item() <= tolerance * scale
        return out

    return run_and_compare


CHUNKS = [[0], [1], [1, 0], [0, 1], [0, 1, 2], [1, 1, 0, 0]]


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_chunks_of_any_shape(prompt, site, check, chunks, size):
    here = site(3, chunks=chunks, batch=size * len(chunks))
    check(PatchStack([prompt(0.7), prompt(1.3, seed=1, negatives=0)]), here)


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("negatives", [1, 3])
def test_one_image_per_picture(prompt, site, check, chunks, negatives):
    here = site(1, chunks=chunks, batch=3 * len(chunks))
    each = prompt(torch.tensor([0.5, 0.0, 2.0]), pictures=3, negatives=negatives)
    check(PatchStack([each]), here)


def test_a_window_of_pictures(prompt, site, check):
    each = prompt(Weight(samples=(1, 2, 3, 4)), pictures=4, mask=torch.rand(4, 9, 7))
    check(PatchStack([each]), site(2, chunks=(1, 0), batch=4, samples=(3, 1)))


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("shared_softmax", [False, True])
@pytest.mark.parametrize("layer", [0, 8])
def test_scaling_modes(prompt, site, check, scaling, shared_softmax, layer):
    weight = Weight(1.7, "ease out", curve=[(0, 1), (1, 0)], samples=(0.5, 1.5))
    stack = PatchStack([prompt(weight, scaling=scaling, shared_softmax=shared_softmax, pictures=2)])
    check(stack, site(layer, chunks=(1, 0), batch=4))


def test_joint_is_fooocus_formula_by_default(prompt):
    assert prompt(shared_softmax=True).scaling == "K+mean(V) w/ C penalty"
    assert prompt().scaling == "V only"


def test_several_adapters_in_one_pass(prompt, table, site, check):
    mask = torch.rand(13, 9, generator=torch.Generator().manual_seed(3))
    stack = PatchStack(
        [
            prompt(0.5, mask=mask),
            prompt(0.8, seed=1, shared_softmax=True),
            prompt("ease in", seed=2, count=9, mask=torch.stack([mask, 1 - mask])),
            prompt(1.5, seed=3, shared_softmax=True, count=3),
            prompt(-0.5, seed=4, scaling="K+V"),
        ]
    )
    here = site(4, chunks=(1, 0), batch=4)
    check(stack, here)
    branches = branches_at(stack.bind(table), here, torch.float32)
    assert branches.shared_softmax == 2 and len(branches.k) == 5
    assert branches.masks.shape == (5, 4, here.grid[0] * here.grid[1])


@pytest.mark.parametrize("latent", [(34, 11), (11, 34), (1, 1), (7, 13)])
@pytest.mark.parametrize("layer", [0, 1])
def test_masks_land_on_odd_grids(prompt, site, check, latent, layer):
    left = torch.zeros(latent[0] * 8, latent[1] * 8)
    left[:, : latent[1] * 4] = 1
    check(PatchStack([prompt(mask=left)]), site(layer, latent=latent, batch=2, chunks=(1, 0)))


def test_views_of_wider_tensors(prompt, table, site, qkv):
    """Hosts project q, k and v at once and hand over slices."""
    here = site(1, chunks=(1, 0), batch=2)
    run = PatchStack([prompt(0.5)]).bind(table)
    given = qkv(here)
    wide = [torch.cat([t, t + 1], dim=2)[:, :, : t.shape[2]] for t in given]
    assert not wide[0].is_contiguous()
    out = run.attend(here, *given, heads=2)
    assert torch.equal(run.attend(here, *wide, heads=2), out)


def test_outside_the_mask_nothing_changes(prompt, site, table, qkv):
    mask = torch.zeros(6, 5)
    mask[:, :2] = 1
    here = site(0)
    q, k, v = qkv(here)
    plain = PatchStack().bind(table).attend(here, q, k, v, heads=2)
    out = PatchStack([prompt(mask=mask)]).bind(table).attend(here, q, k, v, heads=2)
    changed = (out - plain).abs().amax(2).view(6, 5) > 1e-5
    assert torch.equal(changed, mask.bool())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_follow_the_queries(prompt, site, check, dtype):
    stack = PatchStack([prompt(0.8), prompt(0.6, seed=1, shared_softmax=True)])
    tolerance = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    check(stack, site(3, chunks=(1, 0), batch=2), tolerance, dtype=dtype)


def test_cond_and_uncond_with_different_tokens(adapter, tokens, site, check):
    several = ImagePrompt(adapter, (tokens(1, 8), tokens(1, 4)), 0.9)
    assert len(several.keys_values.parts) == 2
    for chunks in CHUNKS:
        check(PatchStack([several]), site(5, chunks=chunks, batch=len(chunks)))
        check(
            PatchStack([several.replace(shared_softmax=True)]),
            site(5, chunks=chunks, batch=len(chunks)),
        )


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_stack_in_any_call(prompt, table, check, data):
    draw = data.draw
    size = draw(st.integers(1, 3), "samples")
    weights = st.one_of(
        st.floats(-2, 2),
        st.sampled_from(["ease in", "weak middle"]),
        st.builds(
            Weight,
            st.floats(-2, 2),
            st.dictionaries(st.integers(0, 6), st.floats(-1, 1), min_size=1),
            st.just([(0.0, 1.0), (1.0, 0.5)]),
            st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=size, max_size=size),
        ),
    )
    layer = draw(st.integers(0, len(table) - 1), "layer")
    prompts = []
    for seed in range(draw(st.integers(1, 3), "prompts")):
        pictures = draw(st.sampled_from([1, size]))
        masks = draw(st.sampled_from([0, 1, size]))
        item = prompt(
            draw(weights),
            seed=seed,
            pictures=pictures,
            negatives=draw(st.sampled_from([0, 1, pictures])),
            mask=torch.rand(masks, 9, 8) if masks else None,
            scaling=draw(st.sampled_from(SCALINGS)),
        )
        if item.weight.for_layers(table)[layer] is not None:
            prompts.append(item)
    chunks = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3), "chunks")
    latent = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)), "latent")
    call = Call(latent=latent, batch=size * len(chunks), chunks=chunks, progress=0.25)
    check(PatchStack(prompts), Site.over_text(table[layer], call), 5e-6)
