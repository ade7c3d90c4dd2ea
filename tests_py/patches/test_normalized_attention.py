# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Normalized attention guidance: its formula against those in use, and which rows have it."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnpatch import NormalizedAttentionGuidance, PatchStack
from attnpatch.engine import Call, Site
from attnpatch.patches import KeyGain, TextKeys
from attnpatch.patches.guidance.bound_normalized import guide_normalized

CONTEXT = 9


def authors(plus, minus, scale, tau, alpha, order=1):
    """The authors' code: ratio of norms, and its minimum with tau."""
    away = plus * scale - minus * (scale - 1)
    ratio = away.norm(p=order, dim=-1, keepdim=True) / plus.norm(p=order, dim=-1, keepdim=True)
    away = away * torch.minimum(ratio, torch.full_like(ratio, tau)) / ratio
    return away * alpha + plus * (1 - alpha)


def paper(plus, minus, phi, tau, alpha):
    """The paper's own letters: phi is the scale less 1."""
    away = plus + phi * (plus - minus)
    norm, other = (x.abs().sum(-1, keepdim=True) for x in (plus, away))
    return alpha * away * (tau * norm / other).clamp(max=1.0) + (1 - alpha) * plus


def node_packs(plus, minus, scale, tau, alpha):
    """With a small number against division by nothing, as node packs write it."""
    away = plus * scale - minus * (scale - 1)
    norm, other = (x.norm(p=1, dim=-1, keepdim=True) for x in (plus, away))
    ratio = torch.nan_to_num(other / norm, 10.0)
    away = torch.where(ratio > tau, away / (other + 1e-6) * norm * tau, away)
    return away * alpha + plus * (1 - alpha)


NUMBERS = {
    "seed": st.integers(0, 2**31),
    "scale": st.floats(-3, 30),
    "tau": st.floats(0, 10),
    "alpha": st.floats(0, 1),
}


def outputs(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 16, generator=generator, dtype=torch.float64).to(dtype) for _ in "+-"]


@given(**NUMBERS)
def test_formula_is_that_of_all_who_publish_one(seed, scale, tau, alpha):
    plus, minus = outputs(seed)
    found = guide_normalized(plus, minus, scale, tau, alpha)
    options = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(found, authors(plus, minus, scale, tau, alpha), **options)
    torch.testing.assert_close(found, paper(plus, minus, scale - 1, tau, alpha), **options)
    packs = node_packs(plus, minus, scale, tau, alpha)
    torch.testing.assert_close(found, packs, rtol=1e-5, atol=1e-5)
    found = guide_normalized(plus, minus, scale, tau, alpha, euclidean=True)
    torch.testing.assert_close(found, authors(plus, minus, scale, tau, alpha, 2), **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@given(**NUMBERS)
def test_halves_are_rounded_once(dtype, seed, scale, tau, alpha):
    plus, minus = outputs(seed, dtype)
    found = guide_normalized(plus, minus, scale, tau, alpha)
    right = authors(plus.double(), minus.double(), scale, tau, alpha)
    assert found.dtype is dtype
    size = (1 + abs(scale)) * 4.0  # of the terms, which may cancel
    step = torch.finfo(dtype).eps
    error = (found.double() - right).abs()
    assert bool((error <= 0.6 * step * right.abs() + 1e-6 * size).all())


@given(scale=NUMBERS["scale"], tau=NUMBERS["tau"], alpha=NUMBERS["alpha"])
def test_no_token_grows_by_more_than_tau_and_nothing_divides_by_zero(scale, tau, alpha):
    plus, minus = outputs(3)
    plus[0, 0], minus[0, 1], plus[1, 0], minus[1, 0] = 0.0, 0.0, 0.0, 0.0
    found = guide_normalized(plus, minus, scale, tau, alpha)
    assert bool(found.isfinite().all())
    bound = (alpha * tau + 1 - alpha) * plus.abs().sum(-1)
    assert bool((found.abs().sum(-1) <= bound * (1 + 1e-9) + 1e-12).all())


@pytest.fixture
def bring():
    """Attend at a site as a host does: it projects the patches' texts as it does its own."""

    def attend(stack, site, qkv, **options):
        bound = PatchStack(stack).bind(options.pop("table"))
        q, k, v = (x.unflatten(-1, (2, -1)).transpose(1, 2) for x in qkv)
        acting = bound.at(site)
        context = None if acting is None else acting.context(q.dtype, q.device)
        more = None if context is None else project(context, site.layer.channels)
        return bound.attend(site, q, k, v, more=more, **options)

    return attend


def project(context, channels):
    generator = torch.Generator().manual_seed(11)
    weights = [torch.randn(channels, CONTEXT, generator=generator).to(context) for _ in "kv"]
    return tuple((context @ w.T).unflatten(-1, (2, -1)).transpose(1, 2) for w in weights)


def flat(more):
    return [x.transpose(1, 2).flatten(2) for x in more]


def negative(images=1, tokens=5, seed=0):
    generator = torch.Generator().manual_seed(20 + seed)
    return torch.randn(images, tokens, CONTEXT, generator=generator)


def expected(formulas, qkv, site, texts, patch, rows):
    """Float64: rows with a text are led away from it, the others are plain."""
    found = []
    for row, place in enumerate(rows):
        q, k, v = (x[row] for x in qkv)
        plus = formulas.attention(q, k, v)
        if place >= 0:
            k, v = flat(project(texts[place][None], site.layer.channels))
            minus = formulas.attention(q, k[0], v[0])
            plus = authors(plus, minus, patch.scale, patch.tau, patch.alpha)
        found.append(plus)
    return torch.stack(found)


LAYOUTS = [
    ({"batch": 2, "chunks": (1, 0)}, 1, [-1, 0]),
    ({"batch": 2, "chunks": (0, 1)}, 1, [0, -1]),
    ({"batch": 1, "chunks": (0,)}, 1, [0]),
    ({"batch": 1, "chunks": (1,)}, 1, [-1]),
    ({"batch": 4, "chunks": (1, 0)}, 2, [-1, -1, 0, 1]),
    ({"batch": 4, "chunks": (0, 1, 0, 1), "slots": (0, 0, 1, 1)}, 2, [0, -1, 1, -1]),
    ({"batch": 3, "chunks": (0,), "samples": (0, 1, 1)}, 2, [0, 1, 1]),
    # Degraded passes of cond rows have it too: what they lose is self-attention's alone.
    ({"batch": 3, "chunks": (1, 0, 0), "degraded": (-1, -1, 0)}, 1, [-1, 0, 0]),
]


@pytest.mark.parametrize(("call", "images", "rows"), LAYOUTS)
def test_cond_rows_alone_are_led_away(bring, table, site, qkv, formulas, call, images, rows):
    here = site(2, **call)
    tensors, texts = qkv(here), negative(images)
    patch = NormalizedAttentionGuidance(texts, scale=4.0, tau=1.2, alpha=0.7)
    found = bring(patch, here, tensors, table=table)
    right = expected(formulas, tensors, here, texts, patch, rows)
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5)
    plain = bring([], here, tensors, table=table)
    for row, place in enumerate(rows):
        assert torch.equal(found[row], plain[row]) == (place < 0)


def test_padding_is_not_attended_to(bring, table, site, qkv):
    here = site(0, batch=2)
    texts = negative(2, tokens=6)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 1, 0, 0, 1]])
    found = bring(
        NormalizedAttentionGuidance(texts, attention_mask=mask), here, qkv(here), table=table
    )
    for row in range(2):
        short = NormalizedAttentionGuidance(texts[row][mask[row].bool()])
        alone = bring(short, here, qkv(here), table=table)
        torch.testing.assert_close(found[row], alone[row], rtol=1e-5, atol=1e-6)


def test_scale_one_and_alpha_zero_are_off(table, site, qkv):
    here = site(0)
    for options in ({"scale": 1}, {"phi": 0}, {"alpha": 0}):
        bound = PatchStack(NormalizedAttentionGuidance(negative(), **options)).bind(table)
        assert bound.at(here) is None and not bound.tells_roles_apart and not bound.guides_text
        assert len(bound.report().skipped) == len(table)


def test_windows_and_blocks(table, site):
    patch = NormalizedAttentionGuidance(negative(), start=0.2, end=0.6, blocks="m0,u1")
    bound = PatchStack(patch).bind(table)
    middle = next(layer.index for layer in table if layer.block == "middle")
    for progress, acts in [(0.1, False), (0.3, True), (0.7, False)]:
        assert (bound.at(site(middle, progress=progress)) is not None) == acts
    assert bound.at(site(0, progress=0.3)) is None
    rows = bound.at(site(middle, batch=2, progress=(0.3, 0.7)))
    text = torch.randn(2, 4, 8)
    q, k = torch.randn(2, 2, 4, 4), torch.randn(1, 2, 5, 4)
    guided = rows.guides.guide(text, q, (k, k), None)
    assert torch.equal(guided[1], text[1]) and not torch.equal(guided[0], text[0])
    with pytest.raises(ValueError, match="progress: a patch with start or end needs it"):
        bound.at(site(middle, progress=None))
    with pytest.raises(ValueError, match="blocks: 'u7' is not in this UNet"):
        PatchStack(NormalizedAttentionGuidance(negative(), blocks="u7")).bind(table)


@pytest.mark.parametrize("shared", [False, True])
def test_what_an_image_prompt_adds_stays_as_it_is(bring, table, site, qkv, prompt, shared):
    here = site(2, batch=2, chunks=(1, 0))
    tensors = qkv(here)
    patch = NormalizedAttentionGuidance(negative(), scale=6.0)
    image = prompt(0.8, shared_softmax=shared)
    plain, alone, imaged, both = (
        bring(stack, here, tensors, table=table) for stack in ([], [patch], [image], [image, patch])
    )
    torch.testing.assert_close(both - imaged, alone - plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(both[0], imaged[0]), "uncond"
    swapped = bring([patch, image], here, tensors, table=table)
    assert torch.equal(swapped, both)


def test_key_gains_are_of_the_positive_text(bring, table, site, qkv):
    here = site(2)
    q, k, v = qkv(here)
    patch, gain = NormalizedAttentionGuidance(negative()), KeyGain(TextKeys((1,)), 0.0)
    found = bring([gain, patch], here, (q, k, v), table=table)
    left = [0, 2, 3, 4, 5, 6]
    without = bring([patch], here, (q, k[:, left], v[:, left]), table=table)
    torch.testing.assert_close(found, without, rtol=1e-5, atol=1e-5)


def test_several_stand_one_around_the_other(bring, table, site, qkv, formulas):
    here = site(0)
    tensors = qkv(here)
    outer = NormalizedAttentionGuidance(negative(tokens=3, seed=1), alpha=0.5)
    inner = NormalizedAttentionGuidance(negative(tokens=5, seed=2), scale=3.0)
    found = bring([outer, inner], here, tensors, table=table)
    plus = expected(formulas, tensors, here, inner.negative, inner, [0])[0]
    k, v = flat(project(outer.negative, here.layer.channels))
    minus = formulas.attention(tensors[0][0], k[0], v[0])
    right = authors(plus, minus, outer.scale, outer.tau, outer.alpha)
    torch.testing.assert_close(found[0].double(), right, rtol=1e-5, atol=1e-5)


def test_a_scale_of_the_logits_is_that_of_both_texts(bring, table, site, qkv):
    here = site(0)
    q, k, v = qkv(here)
    patch = NormalizedAttentionGuidance(negative())
    found = bring(patch, here, (q, k, v), table=table, scale=0.7)
    size = q.shape[-1] // 2
    right = bring(patch, here, (q * 0.7 * math.sqrt(size), k, v), table=table)
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_the_host_must_bring_keys_and_values(table, site, qkv):
    here = site(0)
    bound = PatchStack(NormalizedAttentionGuidance(negative(tokens=5))).bind(table)
    q, k, v = (x.unflatten(-1, (2, -1)).transpose(1, 2) for x in qkv(here))
    with pytest.raises(ValueError, match=r"expected keys and values of 5 more tokens.*got 0"):
        bound.attend(here, q, k, v)
    with pytest.raises(ValueError, match=r"expected keys and values of 5 more tokens.*got 7"):
        bound.attend(here, q, k, v, more=(k, v))
    with pytest.raises(ValueError, match="k, v: expected those of the text"):
        bound.at(here).terms(q)
    with pytest.raises(ValueError, match="q: expected 1 rows"):
        bound.at(here).attend(*(x.expand(2, -1, -1, -1) for x in (q, k, v)), more=project_for(here))


def project_for(here):
    return project(negative(tokens=5), here.layer.channels)


def test_gradients_reach_the_negative(bring, table, site, qkv):
    here = site(0, batch=2, chunks=(1, 0))
    leaf = negative().requires_grad_()
    patch = NormalizedAttentionGuidance(leaf)
    assert patch.requires_grad
    tensors = qkv(here)
    bring(patch, here, tensors, table=table)[1].square().sum().backward()
    assert leaf.grad.abs().max() > 0
    with torch.no_grad():
        unit = torch.nn.functional.normalize(leaf.grad.flatten(), dim=0).view_as(leaf)
        step = 1e-2
        ends = [
            bring(NormalizedAttentionGuidance(leaf + s * unit), here, tensors, table=table)[1]
            .double()
            .square()
            .sum()
            for s in (-step, step)
        ]
    slope = float(ends[1] - ends[0]) / (2 * step)
    assert slope == pytest.approx(float(leaf.grad.norm()), rel=2e-2)


def test_other_counts_of_images_are_refused(table, site):
    bound = PatchStack(NormalizedAttentionGuidance(negative(2))).bind(table)
    with pytest.raises(ValueError, match="negative: expected 1 picture, or 3"):
        bound.at(site(0, batch=3))


def test_text_of_other_channels_is_refused(table):
    bound = PatchStack(NormalizedAttentionGuidance(negative())).bind(table)
    bound.check_context(CONTEXT)
    with pytest.raises(ValueError, match="of 768 channels, as this UNet's text has, got 9"):
        bound.check_context(768)


def test_values(tmp_path, table):
    mask = torch.tensor([True, True, False, True, True])
    patch = NormalizedAttentionGuidance(
        negative(), 4.0, 2.0, 0.5, 0.1, 0.9, "m0, D1", mask, compat="normalized-attention-guidance"
    )
    assert patch.blocks == "m0,d1" and patch.attention_mask.shape == (1, 5)
    PatchStack(patch).save(tmp_path / "stack.safetensors")
    (loaded,) = PatchStack.load(tmp_path / "stack.safetensors")
    for same in (loaded, pickle.loads(pickle.dumps(patch)), copy.deepcopy(patch)):
        assert same == patch and hash(same) == hash(patch)
    assert NormalizedAttentionGuidance(negative(), phi=3.0) == NormalizedAttentionGuidance(
        negative()[0], 4.0
    )
    assert patch != NormalizedAttentionGuidance(negative(), 4.0)
    assert NormalizedAttentionGuidance(negative()).scale == 5.0
    assert repr(NormalizedAttentionGuidance(negative(), tau=3, attention_mask=mask)) == (
        "NormalizedAttentionGuidance(negative of (1, 5, 9), scale=5.0, tau=3.0, "
        "4 tokens of its own)"
    )
    assert NormalizedAttentionGuidance(negative(3)).samples == 3
    assert patch.nbytes == 5 * CONTEXT * 4 + 5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"negative": "blurry"}, TypeError, "negative: expected a tensor of text embeddings"),
        ({"negative": torch.zeros(5)}, ValueError, r"negative: expected .* got \(5,\)"),
        ({"negative": torch.zeros(0, 9)}, ValueError, r"got \(0, 9\)"),
        ({"negative": torch.zeros(5, 9).int()}, ValueError, "torch.int32"),
        ({"negative": torch.full((5, 9), math.nan)}, ValueError, "got NaN or infinity"),
        ({"scale": 2.0, "phi": 1.0}, ValueError, "phi: expected scale or phi"),
        ({"scale": math.inf}, ValueError, "scale: expected a finite number"),
        ({"phi": "1"}, TypeError, "phi: expected a number"),
        ({"tau": -1.0}, ValueError, "tau: expected at least 0"),
        ({"alpha": 1.5}, ValueError, "alpha: expected 0 to 1"),
        ({"end": 2.0}, ValueError, "end: expected a progress"),
        ({"blocks": "middle"}, ValueError, "blocks: expected d, m or u"),
        (
            {"compat": "l2"},
            ValueError,
            "compat: expected None or 'normalized-attention-guidance', got 'l2'",
        ),
        ({"attention_mask": torch.ones(4)}, ValueError, r"attention_mask: expected \(1, 5\)"),
        ({"attention_mask": torch.full((5,), 0.5)}, ValueError, "expected 0 or 1"),
        ({"attention_mask": torch.zeros(5)}, ValueError, "at least one token in each row"),
    ],
)
def test_what_makes_no_sense_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        NormalizedAttentionGuidance(**{"negative": negative(), **options})


def test_a_call_is_described_once_for_all_layers(table):
    bound = PatchStack(NormalizedAttentionGuidance(negative())).bind(table)
    call = Call(latent=(6, 5), batch=2, chunks=(1, 0))
    contexts = {
        id(bound.at(Site.over_text(layer, call)).context(torch.float32, torch.device("cpu")))
        for layer in table
    }
    assert len(contexts) == 1
