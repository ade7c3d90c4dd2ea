# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Key gains in the cross-attention of UNets, against a dense bias in the host's own attention."""

import pytest
import torch
import torch.nn.functional as F
from dense_bias import dense
from diffusers_models import make_prompt, make_unet, unet_inputs

import attnpatch as ap
from attnpatch.patches import KeyGain, ReferenceKeys, TextKeys

TOKENS = 7


def run(unet, inputs):
    with torch.no_grad():
        return unet(**inputs).sample


@pytest.mark.parametrize("structure", ["sd1", "sdxl"])
@pytest.mark.parametrize("gain", [0.0, 5.0])
def test_words_in_a_region(structure, gain):
    """The mask is on the grid of each layer, and cond rows alone have the gain."""
    unet = make_unet(structure)
    inputs = unet_inputs(unet, batch=2, size=(16, 24), tokens=TOKENS)
    mask = torch.rand(1, 32, 48, generator=torch.Generator().manual_seed(0))

    def gains(batch, queries):
        rows = next(r for r in (16, 8, 4, 2) if r * r * 3 // 2 == queries)
        inside = F.interpolate(mask[None], size=(rows, rows * 3 // 2), mode="area").flatten()
        factors = torch.ones(batch, queries, TOKENS)
        factors[1:, :, 2] = 1 + inside * (gain - 1)
        return factors, None

    patch = KeyGain(TextKeys((2,)), gain, mask=mask)
    with ap.attach(unet, patch, cond_or_uncond=(1, 0)):
        found = run(unet, inputs)
    with dense(None, TOKENS, gains) as calls:
        right = run(unet, inputs)
    assert len(calls) == len(ap.hosts.report(unet).wanted) or calls
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
    plain = run(unet, inputs)
    torch.testing.assert_close(found[0], plain[0], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found[1], plain[1], atol=1e-4)


def test_padding_masks_of_the_text():
    unet = make_unet("sd1")
    inputs = unet_inputs(unet, batch=1, tokens=TOKENS)
    mask = torch.ones(1, TOKENS, dtype=torch.bool)
    mask[0, -3:] = False

    def gains(batch, queries):
        factors = torch.ones(batch, queries, TOKENS)
        factors[..., 1] = 4.0
        return factors, None

    inputs["encoder_attention_mask"] = mask
    with ap.attach(unet, KeyGain(TextKeys((1,)), 4.0), cond_or_uncond=(0,)):
        found = run(unet, inputs)
    with dense(None, TOKENS, gains):
        right = run(unet, inputs)
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)


def test_beside_an_image_prompt():
    """The image's branch is a softmax of its own, which no gain of the text's changes."""
    unet = make_unet("sd1")
    inputs = unet_inputs(unet, batch=1, tokens=TOKENS)
    prompt = make_prompt(unet)

    def gains(batch, queries):
        factors = torch.ones(batch, queries, TOKENS)
        factors[..., 1] = 4.0
        return factors, None

    gain = KeyGain(TextKeys((1,)), 4.0)
    with ap.attach(unet, [gain, prompt], cond_or_uncond=(0,)):
        found = run(unet, inputs)
    with ap.attach(unet, gain, cond_or_uncond=(0,)):
        without = run(unet, inputs)
    with ap.attach(unet, prompt, cond_or_uncond=(0,)):
        image_alone = run(unet, inputs)
    assert not torch.allclose(found, without, atol=1e-4)
    assert not torch.allclose(found, image_alone, atol=1e-4)


def test_a_reference_is_refused():
    unet = make_unet("sd1")
    with pytest.raises(ValueError, match="keys: expected a model that is given references"):
        ap.attach(unet, KeyGain(ReferenceKeys(0), 2.0))


def test_another_processor_is_refused():
    class Other:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
            return hidden_states

    unet = make_unet("sd1")
    unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.set_processor(Other())
    inputs = unet_inputs(unet, batch=1, tokens=TOKENS)
    with (
        ap.attach(unet, KeyGain(TextKeys((1,)), 4.0), cond_or_uncond=(0,)),
        pytest.raises(ValueError, match=r"KeyGain: expected attention to the text alone at down_b"),
    ):
        run(unet, inputs)


def test_an_image_that_sees_no_text_is_an_error():
    """Attention to no key at all is not a number."""
    unet = make_unet("sd1")
    inputs = unet_inputs(unet, batch=1, tokens=9)
    left, right = torch.zeros(2, 8, 8)
    left[:, :2], right[:, 4:] = 1, 1
    texts = inputs["encoder_hidden_states"].split([4, 5], dim=1)
    _, gap = ap.regional_prompts([(texts[0], left), (texts[1], right)])
    _, strong = ap.regional_prompts([(texts[0], left), (texts[1], right)], strength=2.0)
    for patches in (gap, strong, KeyGain(TextKeys(), 0.0)):
        with ap.attach(unet, patches, cond_or_uncond=(0,)), torch.no_grad():
            with pytest.raises(ValueError, match="expected tokens that see some of the 9 keys"):
                unet(**inputs)
            both = {**inputs, "sample": inputs["sample"].repeat(2, 1, 1, 1)}
            both["encoder_hidden_states"] = inputs["encoder_hidden_states"].repeat(2, 1, 1)
            with pytest.raises(ValueError, match="expected tokens that see some"):
                unet(**both)
    right[:, 2:] = 1  # no gap
    _, whole = ap.regional_prompts([(texts[0], left), (texts[1], right)])
    for patches, roles in ((whole, (0,)), (gap, (1,)), (KeyGain(TextKeys(range(8)), 0.0), (0,))):
        with ap.attach(unet, patches, cond_or_uncond=roles), torch.no_grad():
            assert torch.isfinite(unet(**inputs).sample).all()
