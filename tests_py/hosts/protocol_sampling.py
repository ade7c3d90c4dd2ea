# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A model as ComfyUI has it: its patcher, Stable Diffusion's schedule, and a run of sampling."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import torch
from protocol_host import CLONE_RULES, BaseModel, Patcher, make_host, make_inputs
from protocol_unet import SD1
from sampling_host import Sampler, entry


class DiscreteSampling:
    """Stable Diffusion's own schedule, with percents and timesteps as ComfyUI counts them."""

    def __init__(self):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alphas = torch.cumprod(1 - betas, 0)
        self.log_sigmas = ((1 - alphas) / alphas).sqrt().log().float()

    def timestep(self, sigma):
        distances = sigma.log() - self.log_sigmas[:, None]
        return distances.abs().argmin(dim=0).view(sigma.shape)

    def sigma(self, timestep):
        timestep = torch.tensor(timestep)
        low, high, share = int(timestep.floor()), int(timestep.ceil()), timestep.frac()
        return ((1 - share) * self.log_sigmas[low] + share * self.log_sigmas[high]).exp().item()

    def percent_to_sigma(self, percent):
        if percent <= 0:
            return 999999999.9
        return 0.0 if percent >= 1 else self.sigma((1 - percent) * 999.0)


class ComfyModel(BaseModel):
    def __init__(self, diffusion_model):
        super().__init__(diffusion_model)
        self.model_sampling = DiscreteSampling()


class ComfyPatcher(Patcher):
    """A ModelPatcher as ComfyUI has it."""

    __module__ = "comfy.model_patcher"

    def __init__(self, *args):
        super().__init__(*args)
        self.callbacks = {}

    def clone(self):
        options = CLONE_RULES[self.clone_rule](self.model_options)
        clone = type(self)(self.model, self.clone_rule, options)
        clone.callbacks = CLONE_RULES["shared"](self.callbacks)
        for callbacks in self.callbacks.get("on_clone", {}).values():
            for callback in callbacks:
                callback(self, clone)
        return clone

    def add_callback_with_key(self, call_type, key, callback):
        self.callbacks.setdefault(call_type, {}).setdefault(key, []).append(callback)

    def remove_callbacks_with_key(self, call_type, key):
        self.callbacks.get(call_type, {}).pop(key, None)

    def set_model_attn1_replace(self, patch, block, number, index=None):
        self._replace("attn1", patch, (block, number), index)

    def set_model_attn2_replace(self, patch, block, number, index=None):
        self._replace("attn2", patch, (block, number), index)

    def _replace(self, kind, patch, block, index):
        options = self.model_options["transformer_options"]
        slots = options.setdefault("patches_replace", {}).setdefault(kind, {})
        slots[block if index is None else (*block, index)] = patch

    def set_model_patch(self, patch, name):
        patches = self.model_options["transformer_options"].setdefault("patches", {})
        patches[name] = [*patches.get(name, []), patch]


@torch.inference_mode()
def sample(patcher, x, conds, *, steps=2, scale=4.0, sampler=None, **told):
    """Take Euler steps from unit noise.

    Parameters
    ----------
    patcher: the model.
    x: noise (b, 4, H, W).
    conds: (cond, uncond), each a list of entries.
    sampler: how calls are batched; by default all chunks that fit together come in one.
    told: what others put among the model's ``transformer_options``.
    """
    sampler = sampler or Sampler()
    sampling = patcher.model.model_sampling
    levels = [sampling.sigma(999.0 * (1 - i / steps)) for i in range(steps)] + [0.0]
    options = CLONE_RULES["shared"](patcher.model_options)
    options["transformer_options"] |= {"sample_sigmas": torch.tensor(levels)} | told
    running = SimpleNamespace(model=patcher.model, model_options=options)
    x = x * levels[0]
    for now, then in itertools.pairwise(levels):
        denoised = sampler.step(running, x, conds, now, scale)
        x = denoised + (x - denoised) * (then / now)
    return x


def make_comfy(structure=SD1, width=16, **options):
    """Build a ComfyUI with random weights."""
    host = make_host(structure, width, **options)
    return ComfyPatcher(ComfyModel(host.model.diffusion_model), host.clone_rule)


def make_conds(structure=SD1, **options):
    """Return unit noise, and (cond, uncond)."""
    x, contexts = make_inputs(structure, **options)
    return x, tuple([entry(contexts[i], f"prompt {i}")] for i in (0, 1))
