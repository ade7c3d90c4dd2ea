# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Normalized attention guidance in UNets of diffusers, against the authors' formula."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers_models import CONTEXT, is_original, make_prompt, make_unet, unet_inputs
from reference_nag import reference

import attnpatch as ap
from attnpatch import NormalizedAttentionGuidance
from attnpatch.patches import KeyGain, TextKeys

OPTIONS = {"rtol": 1e-4, "atol": 1e-5}


def texts(images=1, tokens=5, seed=0):
    generator = torch.Generator().manual_seed(40 + seed)
    return torch.randn(images, tokens, CONTEXT, generator=generator)


def run(unet, inputs, patches=(), kinds=(1, 0)):
    with torch.no_grad(), ap.attach(unet, list(patches), cond_or_uncond=kinds):
        return unet(**inputs).sample


@pytest.mark.parametrize("structure", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("kinds", [(1, 0), (0, 1), (0,), (1, 0, 0)])
def test_equals_the_authors_formula(structure, kinds):
    unet, negative = make_unet(structure), texts()
    inputs = unet_inputs(unet, batch=len(kinds), size=(16, 24))
    patch = NormalizedAttentionGuidance(negative, scale=6.0, tau=1.3, alpha=0.8)
    found = run(unet, inputs, [patch], kinds)
    rows = [negative[0] if kind == 0 else None for kind in kinds]
    right = reference(unet, inputs, rows, scale=6.0, tau=1.3, alpha=0.8)
    torch.testing.assert_close(found, right, **OPTIONS)
    plain = run(unet, inputs, kinds=kinds)
    for row, kind in enumerate(kinds):
        assert torch.equal(found[row], plain[row]) == (kind == 1)
    assert is_original(unet)


def test_uncond_alone_and_scale_one_are_the_plain_unet():
    unet = make_unet("sd1")
    inputs = unet_inputs(unet, batch=1)
    plain = run(unet, inputs, kinds=(0,))
    assert torch.equal(run(unet, inputs, [NormalizedAttentionGuidance(texts())], (1,)), plain)
    off = NormalizedAttentionGuidance(texts(), scale=1.0)
    assert torch.equal(run(unet, inputs, [off], (0,)), plain)


def test_a_negative_for_each_image_with_padding():
    unet, negative = make_unet("sdxl"), texts(2)
    inputs = unet_inputs(unet, batch=4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    patch = NormalizedAttentionGuidance(negative, attention_mask=mask)
    found = run(unet, inputs, [patch], (1, 0))
    right = reference(unet, inputs, [None, None, negative[0, :3], negative[1]])
    torch.testing.assert_close(found, right, **OPTIONS)


@pytest.mark.parametrize("backend", [None, "native"])
def test_masks_on_the_text_and_backends(backend):
    unet, negative = make_unet("sd1"), texts()
    inputs = unet_inputs(unet, batch=2)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[:, 5:] = False
    inputs["encoder_attention_mask"] = mask
    right = reference(unet, inputs, [None, negative[0]])
    if backend is not None:
        unet.set_attention_backend(backend)
    found = run(unet, inputs, [NormalizedAttentionGuidance(negative)])
    torch.testing.assert_close(found, right, **OPTIONS)


class Other(AttnProcessor2_0):
    """Somebody else's processor: it scales what it attends to."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        out = super().__call__(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        return out if encoder_hidden_states is None else out + 0.25


def test_what_another_processor_adds_stays():
    unet, negative = make_unet("sd1"), texts()
    inputs = unet_inputs(unet, batch=2)
    before = unet.attn_processors
    patch = NormalizedAttentionGuidance(negative)
    for mask in (None, torch.tensor([[1, 1, 1, 1, 1, 0, 0]] * 2).bool()):
        inputs["encoder_attention_mask"] = mask
        right = reference(unet, inputs, [None, negative[0]], added=0.25)
        unet.set_attn_processor(Other())
        found = run(unet, inputs, [patch])
        unet.set_attn_processor(dict(before))
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-4)


def test_image_prompts_and_key_gains_beside():
    """At one layer what an image prompt adds is the same with guidance as without it."""
    unet, negative = make_unet("sd1"), texts()
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    inputs = unet_inputs(unet, batch=2)
    seen = []
    hook = unet.get_submodule(name).register_forward_hook(lambda *args: seen.append(args[-1]))
    blocks = {"blocks": "m0"}
    prompt = make_prompt(unet, weight={6: 0.8})
    guide = NormalizedAttentionGuidance(negative, scale=8.0, **blocks)
    for stack in ([], [guide], [prompt], [prompt, guide]):
        run(unet, inputs, stack)
    hook.remove()
    plain, alone, imaged, both = seen
    assert not torch.equal(plain, imaged) and not torch.equal(plain, alone)
    torch.testing.assert_close(both - imaged, alone - plain, rtol=1e-3, atol=1e-5)
    gain = KeyGain(TextKeys((2,)), 0.0)
    found = run(unet, inputs, [gain, NormalizedAttentionGuidance(negative)])
    inputs["encoder_attention_mask"] = torch.ones(2, 7, dtype=torch.bool)
    inputs["encoder_attention_mask"][1, 2] = False
    right = reference(unet, inputs, [None, negative[0]])
    torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves(dtype):
    unet, negative = make_unet("sd1"), texts()
    inputs = unet_inputs(unet, batch=2)
    right = reference(unet, inputs, [None, negative[0]])
    half = copy.deepcopy(unet).to(dtype)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    found = run(half, inputs, [NormalizedAttentionGuidance(negative)])
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), right, rtol=0.1, atol=0.1)


SMALL = {
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
    "block_out_channels": (16,),
    "layers_per_block": 1,
}


@pytest.mark.parametrize("mask", [False, True])
def test_compiled_whole_without_breaks_nor_again_for_other_values(mask):
    unet = make_unet(**SMALL)
    inputs = unet_inputs(unet, batch=2)
    if mask:
        inputs["encoder_attention_mask"] = torch.tensor([[1, 1, 1, 1, 1, 0, 0]] * 2).bool()
    compiled = torch.compile(unet, backend="eager", fullgraph=True)
    counted = []
    for tokens, scale in [(5, 5.0), (3, 2.0), (5, 1.5)]:
        negative = texts(tokens=tokens)
        patch = NormalizedAttentionGuidance(negative, scale=scale)
        with torch.no_grad(), ap.attach(unet, patch, cond_or_uncond=(1, 0)):
            found = compiled(**inputs).sample
        right = reference(unet, inputs, [None, negative[0]], scale=scale)
        torch.testing.assert_close(found, right, **OPTIONS)
        counted.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counted[0] == counted[-1]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_gradients_reach_the_negative_of_a_unet_and_of_its_graph():
    unet = make_unet(**SMALL)
    inputs = unet_inputs(unet, batch=2)
    grads = []
    for model in (unet, torch.compile(unet, backend="eager")):
        leaf = texts().requires_grad_()
        with ap.attach(unet, NormalizedAttentionGuidance(leaf), cond_or_uncond=(1, 0)):
            model(**inputs).sample[1].square().sum().backward()
        grads.append(leaf.grad)
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(grads[1], grads[0], **OPTIONS)


def test_fused_projections():
    unet, negative = make_unet("sd1"), texts()
    inputs = unet_inputs(unet, batch=2)
    right = reference(unet, inputs, [None, negative[0]])
    unet.fuse_qkv_projections()
    found = run(unet, inputs, [NormalizedAttentionGuidance(negative)])
    torch.testing.assert_close(found, right, **OPTIONS)


def test_the_loras_of_a_layer_are_the_negatives_too():
    peft = pytest.importorskip("peft")
    unet, negative = make_unet("sd1"), texts()
    config = peft.LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False)
    torch.manual_seed(3)
    unet.add_adapter(config)
    inputs = unet_inputs(unet, batch=2)
    right = reference(unet, inputs, [None, negative[0]])
    found = run(unet, inputs, [NormalizedAttentionGuidance(negative)])
    torch.testing.assert_close(found, right, **OPTIONS)
    unet.disable_adapters()
    assert not torch.allclose(reference(unet, inputs, [None, negative[0]]), right, atol=1e-4)


def test_other_channels_and_unknown_rows_are_refused():
    unet = make_unet("sd1")
    wide = NormalizedAttentionGuidance(torch.zeros(5, 48))
    with pytest.raises(ValueError, match="of 64 channels, as this UNet's text has, got 48"):
        ap.attach(unet, wide)
    assert is_original(unet) and not ap.attached(unet)


def test_copies_keep_it():
    unet, negative = make_unet("sd1"), texts()
    inputs = unet_inputs(unet, batch=2)
    twin = ap.patch_model(unet, NormalizedAttentionGuidance(negative), cond_or_uncond=(1, 0))
    with torch.no_grad():
        found = copy.deepcopy(twin)(**inputs).sample
    torch.testing.assert_close(found, reference(unet, inputs, [None, negative[0]]), **OPTIONS)
