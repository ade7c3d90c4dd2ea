# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Normalized attention guidance in the real ComfyUI, against the authors' formula in its slots."""

from __future__ import annotations

import pytest
import torch
from narrow_models import make_model
from real_host import comfy, relative, sample
from side_by_side import TOLERANCE

import attnpatch as ap


def layers_of(unet):
    """Cross-attention layers of a UNet by the keys of their slots."""
    blocks = {"input": unet.input_blocks, "middle": [unet.middle_block]}
    for name, many in {**blocks, "output": unet.output_blocks}.items():
        for number, block in enumerate(many):
            for module in block:
                for index, one in enumerate(getattr(module, "transformer_blocks", ())):
                    yield (name, number, index), one.attn2


def plainly(model, text, *, scale=5.0, tau=2.5, alpha=0.25):
    """Return a clone that does it in the host's own slots, beside the layers' own projections."""
    clone = model.clone()
    attention = comfy.ldm.modules.attention.optimized_attention

    def make(layer):
        def replace(q, k, v, options):
            heads, chunks = options["n_heads"], options["cond_or_uncond"]
            out = attention(q, k, v, heads)
            near = text.to(q).expand(len(q), -1, -1)
            minus = attention(q, layer.to_k(near), layer.to_v(near), heads)
            away = out * scale - minus * (scale - 1)
            ratio = away.norm(p=1, dim=-1, keepdim=True) / out.norm(p=1, dim=-1, keepdim=True)
            away = away * torch.minimum(ratio, torch.full_like(ratio, tau)) / ratio
            guided = away * alpha + out * (1 - alpha)
            cond = torch.tensor(chunks).repeat_interleave(len(q) // len(chunks)) == 0
            return torch.where(cond[:, None, None], guided, out)

        return replace

    for (block, number, index), layer in layers_of(model.model.diffusion_model):
        clone.set_model_attn2_replace(make(layer), block, number, index)
    return clone


def negative(model, tokens=9):
    layer = next(layer for _, layer in layers_of(model.model.diffusion_model))
    generator = torch.Generator().manual_seed(3)
    return 2.0 * torch.randn(1, tokens, layer.to_k.in_features, generator=generator)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("sd1", {"size": (32, 24)}),
        ("sd1", {"size": (24, 40), "batch": 2}),
        ("sd1", {"size": (32, 24), "cfg": 1.0}),
        ("sdxl", {"size": (16, 24), "batch": 2}),
    ],
)
def test_equals_the_authors_formula(family, options):
    model = make_model(family)
    text, numbers = negative(model), {"scale": 8.0, "tau": 1.5, "alpha": 0.9}
    ours = ap.patch_model(model, ap.NormalizedAttentionGuidance(text, **numbers))
    found, right = sample(ours, **options), sample(plainly(model, text, **numbers), **options)
    plain = sample(model, **options)
    assert relative(right, plain) > 1e-3, "it has no effect"
    assert relative(found, right) < TOLERANCE
    assert torch.equal(sample(model, **options), plain)
    off = ap.patch_model(model, ap.NormalizedAttentionGuidance(text, scale=1.0))
    assert torch.equal(sample(off, **options), plain)


def test_beside_other_guidance_and_fewer_tokens():
    model = make_model("sd1")
    guide = ap.NormalizedAttentionGuidance(negative(model), scale=8.0, alpha=0.9)
    for others in ([ap.PerturbedAttentionGuidance(3.0)], [ap.HyperTile(tile_size=128)]):
        options = {"size": (32, 24)}
        both = sample(ap.patch_model(model, [*others, guide]), **options)
        assert both.isfinite().all()
        for stack in (others, [guide]):
            assert relative(both, sample(ap.patch_model(model, stack), **options)) > 1e-4
