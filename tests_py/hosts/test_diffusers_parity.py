# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The same numbers as diffusers' own IP-Adapter gives with the same weights."""

import functools
import itertools

import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from diffusers.loaders import IPAdapterMixin
from diffusers_models import make_adapter_state, make_features, make_unet, unet_inputs

from attnpatch.adapters import load_image_adapter
from attnpatch.hosts import attach
from attnpatch.hosts.diffusers import share_weights
from attnpatch.patches import ImagePrompt

KINDS = ["linear", "full_face", "plus", "faceid", "faceid_plus", "faceid_plus_v2"]


class IPAdapterPipeline(IPAdapterMixin):
    """What of a pipeline `set_ip_adapter_scale` needs."""

    unet_name = "unet"

    def __init__(self, unet):
        self.unet = unet


class Reference:
    """diffusers' own IP-Adapters in a twin of a UNet."""

    def __init__(self, unet, states, kinds):
        self.unet = share_weights(unet)
        self.unet._load_ip_adapter_weights(states, low_cpu_mem_usage=False)
        self.kinds = kinds

    def __call__(self, inputs, features, scale, masks=None):
        IPAdapterPipeline(self.unet).set_ip_adapter_scale(scale)
        embeds = []
        nets = self.unet.encoder_hid_proj.image_projection_layers
        for kind, net, (cond, negative) in zip(self.kinds, nets, features, strict=True):
            if kind.startswith("faceid_plus"):  # users set these by hand
                pairs = [(n[1], c[1]) for n, c in [(negative, cond)]]
                net.clip_embeds = torch.stack([part for pair in pairs for part in pair])
                net.shortcut = kind == "faceid_plus_v2"
                cond, negative = cond[0], negative[0]
            embeds.append(torch.stack([negative, cond]))  # (batch, pictures, …)
        inputs = dict(inputs)
        added = inputs.pop("added_cond_kwargs", {}) | {"image_embeds": embeds}
        if masks is not None:
            inputs["cross_attention_kwargs"] = {"ip_adapter_masks": masks}
        with torch.no_grad():
            return self.unet(**inputs, added_cond_kwargs=added).sample


@functools.cache
def unet_of(structure):
    return make_unet(structure)


def prompts_of(states, kinds, features, weights, **options):
    prompts = []
    for state, kind, (cond, negative), weight in zip(states, kinds, features, weights, strict=True):
        adapter = load_image_adapter(state, kind=kind)
        prompts.append(ImagePrompt(adapter, adapter.get_image_embeds(cond, negative), weight))
    return prompts


def compare(structure, kinds, scale, *, pictures=1, weights=None, size=(16, 16)):
    unet = unet_of(structure)
    states = [make_adapter_state(unet, kind, seed=i) for i, kind in enumerate(kinds)]
    features = [make_features(kind, pictures, seed=10 + i) for i, kind in enumerate(kinds)]
    inputs = unet_inputs(unet, batch=2, size=size)
    expected = Reference(unet, states, kinds)(inputs, features, scale)
    prompts = prompts_of(states, kinds, features, weights or [scale] * len(kinds))
    with torch.no_grad():
        plain = unet(**inputs).sample
        with attach(unet, prompts, cond_or_uncond=(1, 0)):
            found = unet(**inputs).sample
        assert torch.equal(unet(**inputs).sample, plain)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - plain).abs().max() > 0.05


ALL = [*itertools.product(["sd1", "sd2"], KINDS), ("sdxl", "linear"), ("sdxl", "plus")]


@pytest.mark.parametrize(("structure", "kind"), ALL)
def test_every_variant(structure, kind):
    compare(structure, [kind], 0.7)


@pytest.mark.parametrize("kind", ["linear", "plus", "faceid"])
def test_several_images(kind):
    compare("sd1", [kind], 1.0, pictures=3)


def test_several_adapters():
    compare("sd1", ["plus", "linear"], [0.6, 0.9], pictures=2, weights=[0.6, 0.9])


SCALES = [
    ("sdxl", {"down": {"block_2": [0.0, 1.0]}, "up": {"block_0": [0.0, 1.0, 0.0]}}),
    ("sdxl", {"down": 0.3, "mid": 0.5, "up": {"block_1": 0.7}}),
    ("sd1", {"mid": 1.0, "up": {"block_2": [0.1, 0.0, 0.8]}}),
]


@pytest.mark.parametrize(("structure", "scale"), SCALES)
def test_a_scale_per_block(structure, scale):
    compare(structure, ["plus"], scale)


@pytest.mark.parametrize("size", [(9, 16), (17, 11), (8, 40), (13, 13)])
def test_odd_sizes(size):
    compare("sd1", ["plus"], 0.8, size=size)


@pytest.mark.parametrize("soft", [False, True])
def test_masks(soft):
    """On square grids diffusers guesses the grid right, and both mean the same."""
    unet = unet_of("sd1")
    state = make_adapter_state(unet, "plus")
    cond, negative = make_features("plus", 2)
    inputs = unet_inputs(unet)
    masks = torch.zeros(2, 128, 128)
    masks[0, :, :64] = 1.0
    masks[1, 32:, 64:] = 1.0
    if soft:
        masks = masks * torch.linspace(0, 1, 128)
        given = masks[None]
    else:
        given = IPAdapterMaskProcessor().preprocess(list(masks), height=128, width=128)
        given = given.reshape(1, 2, 128, 128)
    reference = Reference(unet, [state], ["plus"])
    expected = reference(inputs, [(cond, negative)], 0.9, masks=[given])

    adapter = load_image_adapter(state)
    prompts = [
        ImagePrompt(
            adapter,
            adapter.get_image_embeds(cond[i : i + 1], negative[i : i + 1]),
            0.9,
            mask=masks[i],
            mask_resize="bicubic",
        )
        for i in range(2)
    ]
    with torch.no_grad(), attach(unet, prompts, cond_or_uncond=(1, 0)):
        found = unet(**inputs).sample
        halves = attach(unet, prompts[0])
        assert not torch.equal(unet(**inputs).sample, found)
        halves.detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """No further from float32 than diffusers' own in the same dtype, give or take."""
    state = make_adapter_state(unet_of("sd1"), "plus")
    features = make_features("plus", 1)
    exact = Reference(unet_of("sd1"), [state], ["plus"])
    wanted = exact(unet_inputs(exact.unet), [features], 0.8)

    unet = make_unet("sd1").to(dtype)
    inputs = unet_inputs(unet, dtype=dtype)
    reference = Reference(unet, [state], ["plus"])
    given = tuple(f.to(dtype) for f in features)
    theirs = reference(inputs, [given], 0.8)

    prompts = prompts_of([state], ["plus"], [features], [0.8])
    with torch.no_grad(), attach(unet, prompts, cond_or_uncond=(1, 0)):
        ours = unet(**inputs).sample
    assert ours.dtype == dtype
    error = (ours.float() - wanted).abs().mean()
    assert error < 1.5 * (theirs.float() - wanted).abs().mean()


def test_autocast():
    unet = unet_of("sd1")
    state = make_adapter_state(unet, "linear")
    prompts = prompts_of([state], ["linear"], [make_features("linear", 1)], [0.8])
    inputs = unet_inputs(unet)
    with torch.no_grad(), attach(unet, prompts, cond_or_uncond=(1, 0)):
        exact = unet(**inputs).sample
        with torch.autocast("cpu", torch.bfloat16):
            found = unet(**inputs).sample
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).abs().mean() < 0.02
