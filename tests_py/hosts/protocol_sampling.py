# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Sampling as ComfyUI does it: which calls of the UNet a step makes, and what they are told."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from protocol_host import CLONE_RULES, BaseModel, Patcher, make_host, make_inputs
from protocol_unet import SD1


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
        low, high = math.floor(timestep), math.ceil(timestep)
        share = torch.tensor(timestep).frac()
        return ((1 - share) * self.log_sigmas[low] + share * self.log_sigmas[high]).exp().item()

    def percent_to_sigma(self, percent):
        if percent <= 0:
            return 999999999.9
        return 0.0 if percent >= 1 else self.sigma((1 - percent) * 999.0)


class ComfyModel(BaseModel):
    def __init__(self, diffusion_model):
        super().__init__(diffusion_model)
        self.model_sampling = DiscreteSampling()

    def apply_model(self, x, sigmas, context, transformer_options):
        """Return the prediction of the clean latent."""
        scale = sigmas.view(-1, 1, 1, 1)
        timesteps = self.model_sampling.timestep(sigmas).float()
        scaled = x / (1 + scale**2) ** 0.5
        noise = self.diffusion_model(scaled, timesteps, context, None, None, transformer_options)
        return x - noise * scale


class ComfyPatcher(Patcher):
    """A ModelPatcher as ComfyUI has it."""

    __module__ = "comfy.model_patcher"

    def clone(self):
        return type(self)(
            self.model, self.clone_rule, CLONE_RULES[self.clone_rule](self.model_options)
        )

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

    def set_model_sampler_post_cfg_function(self, function, disable_cfg1_optimization=False):
        functions = self.model_options.get("sampler_post_cfg_function", [])
        self.model_options["sampler_post_cfg_function"] = [*functions, function]
        if disable_cfg1_optimization:
            self.model_options["disable_cfg1_optimization"] = True


@dataclass(eq=False)
class Cond:
    """One entry of a conditioning: tokens (1 or b, T, D), and where on the latent it acts."""

    context: torch.Tensor
    area: tuple[int, int, int, int] | None = None  # height, width, top, left
    uuid: object = None

    def cut(self, x):
        if self.area is None:
            return x
        height, width, top, left = self.area
        return x[:, :, top : top + height, left : left + width]


def calc_cond_batch(model, conds, x, sigma, model_options):
    """Predict for each conditioning, in as few calls as shapes allow; the last one comes first."""
    waiting = [(entry, i) for i, entries in enumerate(conds) for entry in entries or ()]
    limit = model_options.get("chunks_per_call")  # for want of memory
    sums = [torch.zeros_like(x) for _ in conds]
    counts = [torch.full_like(x, 1e-37) for _ in conds]
    while waiting:
        shape = waiting[0][0].cut(x).shape
        together = [pair for pair in waiting if pair[0].cut(x).shape == shape][::-1][:limit]
        waiting = [pair for pair in waiting if pair not in together]
        entries, indices = zip(*together, strict=True)
        options = CLONE_RULES["shared"](model_options["transformer_options"])
        options |= {
            "cond_or_uncond": list(indices),
            "uuids": [entry.uuid for entry in entries],
            "sigmas": sigma,
        }
        context = torch.cat([entry.context.expand(len(x), -1, -1) for entry in entries])
        outputs = model.apply_model(
            torch.cat([entry.cut(x) for entry in entries]),
            torch.cat([sigma] * len(entries)),
            context,
            options,
        )
        for entry, i, output in zip(entries, indices, outputs.chunk(len(entries)), strict=True):
            entry.cut(sums[i]).add_(output)
            entry.cut(counts[i]).add_(1)
    return [total / count for total, count in zip(sums, counts, strict=True)]


def sampling_function(model, x, sigma, uncond, cond, scale, model_options):
    """Predict the clean latent under classifier-free guidance; at scale 1 without an uncond."""
    shortcut = scale == 1 and not model_options.get("disable_cfg1_optimization", False)
    conds = [cond, None if shortcut else uncond]
    cond_denoised, uncond_denoised = calc_cond_batch(model, conds, x, sigma, model_options)
    denoised = uncond_denoised + (cond_denoised - uncond_denoised) * scale
    for function in model_options.get("sampler_post_cfg_function", ()):
        denoised = function(
            {
                "denoised": denoised,
                "cond": cond,
                "uncond": conds[1],
                "cond_scale": scale,
                "model": model,
                "cond_denoised": cond_denoised,
                "uncond_denoised": uncond_denoised,
                "sigma": sigma,
                "model_options": model_options,
                "input": x,
            }
        )
    return denoised


@torch.inference_mode()
def sample(patcher, x, cond, uncond, *, steps=2, scale=4.0, **model_options):
    """Take Euler steps from unit noise x (b, 4, H, W); cond and uncond are lists of `Cond`."""
    sampling = patcher.model.model_sampling
    levels = [sampling.sigma(999.0 * (1 - i / steps)) for i in range(steps)] + [0.0]
    sigmas = torch.tensor(levels)
    options = CLONE_RULES["shared"](patcher.model_options) | model_options
    options["transformer_options"]["sample_sigmas"] = sigmas
    x = x * sigmas[0]
    for now, then in itertools.pairwise(sigmas):
        sigma = now * x.new_ones(len(x))
        denoised = sampling_function(patcher.model, x, sigma, uncond, cond, scale, options)
        x = denoised + (x - denoised) * (then / now)
    return x


def make_comfy(structure=SD1, width=16, **options):
    """Build a ComfyUI with random weights."""
    host = make_host(structure, width, **options)
    return ComfyPatcher(ComfyModel(host.model.diffusion_model), host.clone_rule)


def make_conds(structure=SD1, **options):
    """Return unit noise, and the entries of cond and uncond."""
    x, contexts = make_inputs(structure, **options)
    cond, uncond = (Cond(contexts[i][:1], uuid=f"prompt {i}") for i in (0, 1))
    return SimpleNamespace(x=x, cond=[cond], uncond=[uncond])
