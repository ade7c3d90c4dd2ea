# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An identity and a style beside each other on a plain SDXL ControlNet pipeline."""

import copy

import diffusers
import pytest
import torch
from diffusers_models import CONTEXT, make_adapter_state, make_features, make_unet
from test_diffusers_pipelines import make_pipeline, run

from attnpatch import Identity, get_identity_embeds, identity_control, load_image_adapter
from attnpatch.adapters import as_identity_adapter, noise_like
from attnpatch.hosts import patch_model
from attnpatch.patches import ImagePrompt, regions

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

NOISE = 0.35


def embedding(seed=0):
    return 20 * torch.randn(1, 512, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pipeline():
    unet = make_unet("sdxl")
    controlnet = diffusers.ControlNetModel.from_unet(unet).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    for name, weight in controlnet.named_parameters():
        if "controlnet_" in name and weight.dim() > 1:
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.02)
    return make_pipeline(
        "sdxl", diffusers.StableDiffusionXLControlNetPipeline, unet=unet, controlnet=controlnet
    )


@pytest.fixture(scope="module")
def identity_state(pipeline):
    """InstantID's structure: a Resampler of one face embedding."""
    state = make_adapter_state(pipeline.unet, "plus", seed=6)
    proj_in = torch.randn(64, 512, generator=torch.Generator().manual_seed(7)) / 512**0.5
    return state | {"image_proj": state["image_proj"] | {"proj_in.weight": proj_in}}


@pytest.fixture(scope="module")
def style_state(pipeline):
    return make_adapter_state(pipeline.unet, "plus", seed=8)


def show(pipeline, **options):
    options = {"image": torch.ones(1, 3, 128, 128), "num_inference_steps": 2} | options
    return run(pipeline, **options)


def test_identity_and_style_are_those_of_two_adapters_of_diffusers(
    pipeline, identity_state, style_state
):
    style = load_image_adapter(style_state)
    look, negative = make_features("plus", 1)
    patches = [
        Identity(identity_state, embedding(), 0.7, noise=NOISE),
        ImagePrompt(style, style.get_image_embeds(look, negative), 0.5),
    ]
    plain = show(pipeline)
    found = show(patch_model(pipeline, patches))
    assert torch.equal(show(pipeline), plain)

    theirs = copy.copy(pipeline)
    theirs.unet = copy.deepcopy(pipeline.unet)
    theirs.unet._load_ip_adapter_weights([identity_state, style_state], low_cpu_mem_usage=False)
    theirs.set_ip_adapter_scale([0.7, 0.5])
    face = torch.stack([noise_like(embedding(), NOISE), embedding()])[:, None]
    expected = show(theirs, ip_adapter_image_embeds=[face, torch.stack([negative, look])])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - plain).abs().max() > 0.05


class Shown:
    """What the ControlNet of a pipeline attends to."""

    def __init__(self, network):
        self.tokens = []
        self.handle = network.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, network, args, kwargs):
        self.tokens.append(kwargs.get("encoder_hidden_states", args[2] if len(args) > 2 else None))


def test_the_controlnet_is_shown_the_face(pipeline, identity_state):
    embeds = get_identity_embeds(identity_state, embedding(), noise=NOISE)
    plain = show(pipeline)
    shown = identity_control(pipeline, embeds)
    seen = Shown(shown.controlnet)
    found = show(shown)
    wanted = torch.cat([embeds.uncond, embeds.cond])
    assert len(seen.tokens) == 2 and all(torch.equal(t, wanted) for t in seen.tokens)
    assert (found - plain).abs().max() > 1e-3
    assert torch.equal(show(pipeline), plain)
    own, ours = pipeline.controlnet.state_dict(), shown.controlnet.state_dict()
    assert all(own[name].data_ptr() == ours[name].data_ptr() for name in own)


def test_patching_before_or_after_is_the_same(pipeline, identity_state):
    embeds = get_identity_embeds(identity_state, embedding())
    patch = Identity(identity_state, embeds)
    first = show(identity_control(patch_model(pipeline, patch), embeds))
    second = show(patch_model(identity_control(pipeline, embeds), patch))
    assert torch.equal(first, second)
    assert (first - show(patch_model(pipeline, patch))).abs().max() > 1e-3
    other = get_identity_embeds(identity_state, embedding(1))
    again = identity_control(identity_control(pipeline, other), embeds)
    assert torch.equal(show(again), show(identity_control(pipeline, embeds)))


@pytest.mark.parametrize(
    "options",
    [
        {"guidance_scale": 1.0},
        {"guess_mode": True},
        {"num_images_per_prompt": 2},
        {"prompts": 2, "image": torch.ones(2, 3, 128, 128)},
    ],
    ids=["unguided", "guess mode", "two pictures", "two prompts"],
)
def test_rows_of_the_controlnet(pipeline, identity_state, options):
    embeds = get_identity_embeds(identity_state, embedding(), noise=NOISE)
    shown = identity_control(pipeline, embeds)
    seen = Shown(shown.controlnet)
    show(shown, **options)
    cond_alone = "guidance_scale" in options or "guess_mode" in options
    each = options.get("num_images_per_prompt", 1) * options.get("prompts", 1)
    parts = [embeds.cond] if cond_alone else [embeds.uncond, embeds.cond]
    wanted = torch.cat([part.expand(each, -1, -1) for part in parts])
    assert all(torch.equal(tokens, wanted) for tokens in seen.tokens)


def test_two_people(pipeline, identity_state):
    adapter = as_identity_adapter(identity_state)
    left, right = torch.zeros(2, 16, 16)
    left[:, :8], right[:, 8:] = 1, 1
    people = [
        Identity(adapter, embedding(seed), mask=mask) for seed, mask in enumerate((left, right))
    ]
    both = show(patch_model(pipeline, regions(people, overlap="priority")))
    for person in people:
        assert (both - show(patch_model(pipeline, person))).abs().max() > 1e-2


def test_what_can_not_be_shown(pipeline, identity_state):
    embeds = get_identity_embeds(identity_state, embedding())
    with pytest.raises(TypeError, match="with a ControlNet"):
        identity_control(make_pipeline("sdxl"), embeds)
    with pytest.raises(TypeError, match="ImageEmbeds"):
        identity_control(pipeline, embeds.cond)
    with pytest.raises(ValueError, match="1 ControlNets, got 1"):
        identity_control(pipeline, embeds, which=1)
    narrow = type(embeds)(embeds.cond[..., :32], embeds.uncond[..., :32])
    with pytest.raises(ValueError, match=f"tokens of {CONTEXT} values"):
        identity_control(pipeline, narrow)
