# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Training through a patched UNet: gradients of diffusers' own IP-Adapter, and differences."""

import threading

import pytest
import torch
from diffusers_models import make_adapter_state, make_features, make_unet, unet_inputs
from torch.utils.checkpoint import checkpoint

from attnpatch import (
    HyperTile,
    NearSightedAttention,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SlothfulAttention,
    SmoothedEnergyGuidance,
    TokenMerging,
)
from attnpatch.adapters import load_image_adapter
from attnpatch.hosts import attach
from attnpatch.hosts.diffusers import share_weights
from attnpatch.patches import ImagePrompt

SMALL = {
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
    "block_out_channels": (16,),
    "layers_per_block": 1,
}


@pytest.fixture(scope="module")
def unet():
    return make_unet(**SMALL)


def parameters_of(unet, kind):
    state = make_adapter_state(unet, kind)
    return {
        group: {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
        for group, tensors in state.items()
    }


def loss_of(sample, seed=9):
    generator = torch.Generator().manual_seed(seed)
    return (sample * torch.randn(sample.shape, generator=generator)).sum()


def patched_loss(unet, patches, **changes):
    with attach(unet, patches, cond_or_uncond=(1, 0)):
        return loss_of(unet(**(unet_inputs(unet) | changes)).sample)


def reference_gradients(unet, state, features, mask, scale):
    """Of features, tokens, mask, and weights of keys and values, by diffusers' own IP-Adapter."""
    twin = share_weights(unet)
    twin._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    processors = [
        twin.attn_processors[name]
        for name in twin.attn_processors
        if name.endswith("attn2.processor")
    ]
    weights = []
    for processor in processors:
        processor.scale = [scale]
        weights += [processor.to_k_ip[0].weight, processor.to_v_ip[0].weight]
    cond, negative = (f.clone().requires_grad_() for f in features)
    tokens = []

    def keep(net, inputs, output):
        output.retain_grad()
        tokens.append(output)

    leaves = [cond, negative, *(weight.requires_grad_() for weight in weights)]
    mask = mask.clone().requires_grad_()
    twin.encoder_hid_proj.image_projection_layers[0].register_forward_hook(keep)
    inputs = unet_inputs(unet)
    out = twin(
        **inputs,
        added_cond_kwargs={"image_embeds": [torch.stack([negative, cond])]},
        cross_attention_kwargs={"ip_adapter_masks": [mask[None, None]]},
    ).sample
    loss_of(out).backward()
    uncond_tokens, cond_tokens = tokens[0].grad
    return [mask.grad, cond_tokens, uncond_tokens, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("kind", ["linear", "plus"])
def test_equal_those_of_diffusers(unet, kind):
    state = parameters_of(unet, kind)
    features = make_features(kind, 1)
    mask = torch.rand(128, 128, generator=torch.Generator().manual_seed(5))
    detached = {g: {n: t.detach().clone() for n, t in ts.items()} for g, ts in state.items()}
    expected = reference_gradients(unet, detached, features, mask, 0.8)

    adapter = load_image_adapter(state)
    cond, negative = (f.clone().requires_grad_() for f in features)
    embeds = adapter.get_image_embeds(cond, negative)
    embeds.cond.retain_grad()
    embeds.uncond.retain_grad()
    mask.requires_grad_()
    patched_loss(
        unet, ImagePrompt(adapter, embeds, 0.8, mask=mask, mask_resize="bicubic")
    ).backward()
    leaves = [mask, embeds.cond, embeds.uncond, cond, negative, *state["ip_adapter"].values()]
    assert all(parameter.grad.any() for parameter in state["image_proj"].values())
    for leaf, wanted in zip(leaves, expected, strict=True):
        found = leaf.grad.reshape(wanted.shape)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_tokens_and_weights_learn_a_picture(unet):
    """Steps of an optimiser reach the UNet without attaching anew, and the loss falls."""
    state = parameters_of(unet, "linear")
    adapter = load_image_adapter(state)
    with torch.no_grad():
        wanted = adapter.get_image_embeds(*make_features("linear", 1, seed=30))
        with attach(unet, ImagePrompt(adapter, wanted), cond_or_uncond=(1, 0)):
            target = unet(**unet_inputs(unet)).sample
    tokens = torch.randn(wanted.cond.shape, generator=torch.Generator().manual_seed(4))
    tokens.requires_grad_()
    optimiser = torch.optim.Adam([tokens, *state["ip_adapter"].values()], 0.02)
    losses = []
    with attach(unet, ImagePrompt(adapter, (tokens, wanted.uncond)), cond_or_uncond=(1, 0)):
        for _ in range(12):
            loss = (unet(**unet_inputs(unet)).sample - target).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        with torch.no_grad():
            trained = unet(**unet_inputs(unet)).sample
    assert losses[-1] < 0.5 * losses[0]
    with (
        torch.no_grad(),
        attach(unet, ImagePrompt(adapter, (tokens.detach(), wanted.uncond)), cond_or_uncond=(1, 0)),
    ):
        torch.testing.assert_close(unet(**unet_inputs(unet)).sample, trained)


BESIDE = [
    SelfAttentionGuidance(2.0),
    PerturbedAttentionGuidance(2.0),
    SmoothedEnergyGuidance(2.0, blur_sigma=2.0),
    SlothfulAttention(),
    NearSightedAttention(),
    TokenMerging(),
    HyperTile(tile_size=32),
]


@pytest.mark.parametrize("patch", BESIDE, ids=lambda patch: type(patch).__name__)
@pytest.mark.parametrize("shared_softmax", [False, True])
def test_beside_every_other_patch(unet, patch, shared_softmax):
    """The derivative along the gradient is the one that differences show."""
    adapter = load_image_adapter(make_adapter_state(unet, "linear"))
    embeds = adapter.get_image_embeds(*make_features("linear", 1))
    inputs = {"sample": unet_inputs(unet, size=(16, 16))["sample"]}

    def loss(tokens, *patches):
        prompt = ImagePrompt(adapter, (tokens, embeds.uncond), shared_softmax=shared_softmax)
        return patched_loss(unet, [prompt, *patches], **inputs)

    tokens = embeds.cond.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(tokens, patch), tokens)
    assert gradient.norm() > 1e-3
    with torch.no_grad():
        assert (loss(tokens, patch) - loss(tokens)).abs() > 1e-5  # it acts
        step = 0.02 * gradient / gradient.norm()
        slope = (loss(tokens + step, patch) - loss(tokens - step, patch)) / 0.04
    torch.testing.assert_close(slope, gradient.norm(), rtol=0.02, atol=1e-3)


class Trained:
    """A UNet of its own, and a prompt whose tokens are trained; its window ends at half."""

    def __init__(self):
        self.unet = make_unet(**SMALL).train()
        adapter = load_image_adapter(make_adapter_state(self.unet, "linear"))
        embeds = adapter.get_image_embeds(*make_features("linear", 1))
        self.tokens = embeds.cond.clone().requires_grad_()
        self.prompt = ImagePrompt(adapter, (self.tokens, embeds.uncond), end=0.5)

    def loss(self):
        """Two calls, of which the first is in the window."""
        inputs = unet_inputs(self.unet)
        calls = [inputs | {"timestep": torch.tensor(time)} for time in (900, 50)]
        return sum(loss_of(self.unet(**call).sample) for call in calls)

    def gradient(self, backward=torch.Tensor.backward):
        self.tokens.grad = None
        with attach(self.unet, self.prompt, cond_or_uncond=(1, 0)):
            backward(self.loss())
        return self.tokens.grad


def in_another_thread(loss):
    """Go back as on a GPU, whose backward pass has a thread of its own."""
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()


@pytest.mark.parametrize("backward", [torch.Tensor.backward, in_another_thread])
def test_checkpointing_computes_each_call_as_it_was(backward):
    trained = Trained()
    expected = trained.gradient()
    trained.unet.enable_gradient_checkpointing(
        lambda f, *xs: checkpoint(f, *xs, use_reentrant=False)
    )
    functions = checkpointing_functions(trained.unet)
    found = trained.gradient(backward)
    torch.testing.assert_close(found, expected)
    assert checkpointing_functions(trained.unet) == functions


def checkpointing_functions(unet):
    return [module.__dict__.get("_gradient_checkpointing_func") for module in unet.modules()]


def test_checkpointing_after_detach_says_what_to_do():
    trained = Trained()
    trained.unet.enable_gradient_checkpointing()
    with attach(trained.unet, trained.prompt, cond_or_uncond=(1, 0)):
        loss = trained.loss()
    with pytest.raises(RuntimeError, match=r"attach: .* call backward before detach"):
        loss.backward()
