# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A small host of our own that calls patches as ComfyUI and Fooocus do.

A model patcher with three clone rules, the UNet of ``protocol_unet``, and the batching of cond and
uncond chunks; ``protocol_sampling`` samples as ComfyUI does.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field

import torch
from protocol_unet import CONTEXT_TOKENS, HEAD_SIZE, SD1, SDXL, Structure, UNet, attention
from sampling_host import joined
from torch import nn

__all__ = ["HEAD_SIZE", "SD1", "SDXL", "Structure", "UNet", "attention"]


class ModelSampling:
    """Sigma and timestep on one straight line; enough to test who asks for what."""

    def timestep(self, sigma):
        return sigma * 100.0

    def percent_to_sigma(self, percent):
        return (1.0 - percent) * 9.99


class BaseModel(nn.Module):
    def __init__(self, diffusion_model):
        super().__init__()
        self.diffusion_model = diffusion_model
        self.model_sampling = ModelSampling()


def _copy_containers(value):
    """Copy dicts and lists, share all that they hold."""
    if isinstance(value, dict):
        return {key: _copy_containers(item) for key, item in value.items()}
    return [_copy_containers(item) for item in value] if isinstance(value, list) else value


CLONE_RULES = {
    "deepcopy": copy.deepcopy,  # Fooocus, and ComfyUI until early 2026
    "shared": _copy_containers,  # ComfyUI since then
    "aliased": dict,  # the worst case: nested dicts belong to parent and clone
}


@dataclass
class Patcher:
    """The part of a ModelPatcher that patches use."""

    model: BaseModel
    clone_rule: str = "deepcopy"
    model_options: dict = field(default_factory=lambda: {"transformer_options": {}})

    def clone(self):
        options = CLONE_RULES[self.clone_rule](self.model_options)
        return Patcher(self.model, self.clone_rule, options)

    def get_model_object(self, name):
        return getattr(self.model, name)

    def set_model_attn2_replace(self, patch, block, number, index=None):
        slots = self.model_options["transformer_options"]
        slots = slots.setdefault("patches_replace", {}).setdefault("attn2", {})
        slots[(block, number) if index is None else (block, number, index)] = patch

    def slots(self):
        """Return the attn2 replace slots: key -> callable."""
        options = self.model_options["transformer_options"]
        return options.get("patches_replace", {}).get("attn2", {})

    def model_patches_to(self, device):
        slots = self.slots()
        for key, patch in slots.items():
            if hasattr(patch, "to"):
                slots[key] = patch.to(device)

    @torch.inference_mode()
    def apply(self, x, sigma, contexts, chunks):
        """Run the UNet once.

        Parameters
        ----------
        x: (b, 4, H, W) latents; every chunk sees them all.
        sigma: the noise level, a float.
        contexts: {0: cond tokens (b, T, D), 1: uncond tokens}.
        chunks: cond_or_uncond, such as [1, 0]; the batch is len(chunks) * b rows.
        """
        sigmas = torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device)
        timesteps = self.model.model_sampling.timestep(sigmas).repeat(len(chunks))
        context = joined([contexts[chunk] for chunk in chunks])
        options = self.model_options["transformer_options"].copy()
        options |= {"cond_or_uncond": list(chunks), "sigmas": sigmas}
        unet = self.model.diffusion_model
        x = torch.cat([x] * len(chunks))
        return unet(x, timesteps, context, transformer_options=options)

    def sample(self, x, contexts, steps=3, guidance=3.0):
        """Take a few Euler steps under classifier-free guidance; x starts as unit noise."""
        levels = torch.linspace(9.0, 0.0, steps + 1).tolist()
        x = x * levels[0]
        for sigma, lower in itertools.pairwise(levels):
            scaled = x / (1 + sigma**2) ** 0.5
            uncond, cond = self.apply(scaled, sigma, contexts, [1, 0]).chunk(2)
            x = x + (uncond + guidance * (cond - uncond)) * (lower - sigma)
        return x


def make_host(structure=SD1, width=16, *, seed=0, clone_rule="deepcopy", dtype=torch.float32):
    """Build a host with random weights, without touching torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet(structure, width)
    return Patcher(BaseModel(unet.to(dtype).eval().requires_grad_(False)), clone_rule)


def make_inputs(structure, *, batch=1, size=(16, 16), seed=0, dtype=torch.float32):
    """Return latents and the cond and uncond contexts."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    contexts = {i: noise(batch, CONTEXT_TOKENS, structure.context_dim) for i in (0, 1)}
    return noise(batch, 4, *size), contexts
