# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guiders of diffusers that skip attention's scores: patches have nothing to change there."""

import pytest
import torch
from diffusers.hooks import LayerSkipConfig, apply_layer_skip
from diffusers_models import make_unet, unet_inputs
from transformer_models import CASES

import attnpatch as ap

# One block, so that a hook skips the scores of all layers over the image.
ONE = {
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "mid_block_type": None,
    "block_out_channels": (16,),
    "layers_per_block": 1,
}
BLOCKS = "down_blocks.0.attentions.0.transformer_blocks"
REDUCING = [
    ap.NearSightedAttention(base_tile_size=16, peak_tile_size=16, seed=1),
    ap.SlothfulAttention(),
    ap.TokenMerging(ratio=0.5, max_depth=2),
]
COMPILED = [False, pytest.param(True, marks=pytest.mark.slow)]


def skip_scores(model, blocks):
    config = LayerSkipConfig([0], blocks, skip_attention=False, skip_attention_scores=True)
    config.skip_ff = False
    apply_layer_skip(model, config)


def run(model, inputs, compiled):
    torch._dynamo.reset()
    net = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    with torch.no_grad():
        return net(**inputs, return_dict=False)[0]


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("patch", REDUCING, ids=lambda patch: type(patch).__name__)
def test_no_tokens_are_left_out_where_a_unet_skips_scores(patch, compiled):
    unet, skipping = make_unet(**ONE), make_unet(**ONE)
    inputs = unet_inputs(unet)
    skip_scores(skipping, BLOCKS)
    expected, plain = (run(model, inputs, False) for model in (skipping, unet))
    assert not torch.allclose(expected, plain, atol=1e-3)
    with ap.attach(unet, patch):
        assert not torch.allclose(run(unet, inputs, False), plain, atol=1e-3)
        skip_scores(unet, BLOCKS)
        found = run(unet, inputs, compiled)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_transformer_skips_scores_as_well():
    case = CASES["QwenImageTransformer2DModel"]
    model, inputs = case.make(), case.arguments(1) | {"encoder_hidden_states_mask": None}
    gain = ap.KeyGain(ap.TextKeys((1,)), 5.0)
    with ap.attach(model, gain, cond_or_uncond=(0,)):
        unskipped = run(model, inputs, False)
    skip_scores(model, "transformer_blocks")
    with ap.attach(model, gain, cond_or_uncond=(0,)):
        expected = run(model, inputs, False)
        found = run(model, inputs, True)
    assert not torch.allclose(expected, unskipped, atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
