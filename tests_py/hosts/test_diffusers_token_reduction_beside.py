# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Fewer tokens in whole pipelines, beside ControlNet, LoRA, image prompts and guidance.

What they are compared with is a pipeline whose self-attention computes the specification.
"""

import copy
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers_models import is_original, make_prompt, make_unet
from test_diffusers_guidance import lively
from test_diffusers_pipelines import add_lora, arguments, make_pipeline
from test_diffusers_token_reduction import PATCHES, where_of

from attnpatch import NearSightedAttention, PerturbedAttentionGuidance, SelfAttentionGuidance
from attnpatch.hosts import attach
from attnpatch.hosts.diffusers import read_layer_table

sys.path.insert(0, str(Path(__file__).parents[1] / "patches" / "token_reduction"))
from reduction_spec import attention

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SIZE = (18, 20)


class Specified:
    """Computes a patch's self-attention in float64 in the calls that `acts` lets it.

    It knows the timestep and the rows of the call from what the UNet was called with.
    """

    def __init__(self, patch, layer, call, acts=lambda rows: True):
        self.patch, self.layer, self.call, self.acts = patch, layer, call, acts

    def __call__(self, attn, hidden_states, *args, **kwargs):
        if not self.acts(len(self.call["sample"])):
            return AttnProcessor2_0()(attn, hidden_states, *args, **kwargs)
        where = where_of(self.patch, self.layer, SIZE, float(self.call["timestep"]), 1)
        # Through the modules: a LoRA's weights are in what they compute.
        one = torch.eye(hidden_states.shape[2])
        weights = [module(one).T for module in (attn.to_q, attn.to_k, attn.to_v)]
        out = attention(self.patch, where, hidden_states, weights, attn.heads)
        return attn.to_out[0](out.to(hidden_states.dtype))


def specify(unet, patch, **acts):
    """Let a UNet's self-attention compute the patch's specification; `acts` by block."""
    call = {}

    def note(_, args, kwargs):
        names = ("sample", "timestep")
        call.update(dict(zip(names, args, strict=False)))
        call.update({name: kwargs[name] for name in names if name in kwargs})

    unet.register_forward_pre_hook(note, with_kwargs=True)
    for layer in read_layer_table(unet):
        options = {"acts": acts[layer.block]} if layer.block in acts else {}
        unet.get_submodule(layer.name).attn1.set_processor(Specified(patch, layer, call, **options))


def run(pipeline, **options):
    latents = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    size = {"height": 8 * SIZE[0], "width": 8 * SIZE[1]}
    inputs = arguments(pipeline, num_inference_steps=2, latents=latents, **size)
    return pipeline(**(inputs | options)).images


def check(found, expected, plain):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - plain).abs().max() > 1e-3, "the patch does nothing"


@PATCHES
def test_controlnet_lora_and_an_image_prompt(patch):
    """ControlNets are no UNets of ours: theirs stays whole."""
    unet = lively(make_unet())
    controlnet = diffusers.ControlNetModel.from_unet(unet).eval()
    torch.nn.init.normal_(controlnet.controlnet_mid_block.weight)
    add_lora(unet)
    twin = copy.deepcopy(unet)
    control = {"controlnet": controlnet, "kind": diffusers.StableDiffusionControlNetPipeline}
    pipeline, expected = (make_pipeline(unet=u, **control) for u in (unet, twin))
    specify(twin, patch)
    options = {"image": torch.rand(1, 3, 8 * SIZE[0], 8 * SIZE[1])}
    prompt = make_prompt(unet)
    with attach(pipeline, [prompt]):
        plain = run(pipeline, **options)
    with attach(expected, [prompt]), attach(pipeline, [patch, prompt]) as attached:
        assert attached.report.matched
        check(run(pipeline, **options), run(expected, **options), plain)
    assert is_original(unet)


# Here the middle is reduced as well, and what each layer keeps shows in the result.
EVERYWHERE = NearSightedAttention(
    base_tile_size=16, peak_tile_size=16, in_depth_decay=0, out_depth_decay=0, time_decay=0
)
GUIDANCE = {
    # What looks at the middle in the ordinary call (uncond and cond) needs all of its tokens …
    "sag": (SelfAttentionGuidance(2.0), lambda rows: rows == 1),
    # … and what changes it in the degraded call (one row) leaves nothing to reduce.
    "pag": (PerturbedAttentionGuidance(3.0, blocks="m0"), lambda rows: rows == 2),
}


@pytest.mark.parametrize("name", GUIDANCE)
def test_guidance_at_the_middle_and_an_image_prompt(name):
    guidance, acts = GUIDANCE[name]
    unet = lively(make_unet())
    twin = copy.deepcopy(unet)
    pipeline, expected = make_pipeline(unet=unet), make_pipeline(unet=twin)
    specify(twin, EVERYWHERE, middle=acts)
    prompt = make_prompt(unet)
    with attach(pipeline, [EVERYWHERE, prompt]):
        plain = run(pipeline)
    with attach(expected, [prompt, guidance]), attach(pipeline, [EVERYWHERE, prompt, guidance]):
        check(run(pipeline), run(expected), plain)


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
def test_a_pipelines_own_perturbed_attention_keeps_its_layer(guidance_scale):
    """diffusers puts processors of its own where ours stand in, for the middle here."""
    unet = lively(make_unet())
    twin = copy.deepcopy(unet)
    kind = {"kind": diffusers.StableDiffusionPAGPipeline, "image_encoder": None}
    pipeline, expected = (
        make_pipeline(unet=u, pag_applied_layers="mid", **kind) for u in (unet, twin)
    )
    options = {"pag_scale": 2.0, "guidance_scale": guidance_scale}
    specify(twin, EVERYWHERE)  # at the middle until the pipeline puts its own there
    plain = run(pipeline, **options)
    with attach(pipeline, EVERYWHERE):
        check(run(pipeline, **options), run(expected, **options), plain)
    assert is_original(unet)
