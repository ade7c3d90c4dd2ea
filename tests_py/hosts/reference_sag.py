# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Self-attention guidance of diffusers UNets written out: whole maps, a square kernel, a hook."""

from __future__ import annotations

import torch
import torch.nn.functional as F

MIDDLE = "mid_block.attentions.0.transformer_blocks.0.attn1"


class KeepMap:
    """A processor that attends plainly and keeps what each token gets, (B, N)."""

    columns = None

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None):
        parts = (project(x) for project in (attn.to_q, attn.to_k, attn.to_v))
        q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in parts)
        attention_map = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        self.columns = attention_map.mean(1).sum(1)
        return attn.to_out[0]((attention_map @ v).transpose(1, 2).flatten(2))


def blurred(x0, sigma):
    taps = torch.exp(-0.5 * (torch.linspace(-4, 4, 9) / sigma) ** 2)
    kernel = (torch.outer(taps, taps) / taps.sum() ** 2).expand(x0.shape[1], 1, 9, 9)
    return F.conv2d(F.pad(x0, (4,) * 4, mode="reflect"), kernel, groups=x0.shape[1])


class ReferenceSAG:
    """Guides a pipeline in a ``with`` block; on predictions of x0, whatever the UNet predicts.

    Parameters
    ----------
    pipeline
        Whose UNet has attention in its middle block.
    scale, sigma
        Of the guidance and of its blur.
    """

    def __init__(self, pipeline, scale, sigma):
        self.pipeline, self.scale, self.sigma = pipeline, scale, sigma
        self.running = False

    def __enter__(self):
        unet, self.map = self.pipeline.unet, KeepMap()
        self.module = unet.get_submodule(MIDDLE)
        self.before = self.module.processor
        self.module.set_processor(self.map)
        self.hook = unet.register_forward_hook(self.guide, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self.module.set_processor(self.before)
        self.hook.remove()

    def parts(self, timestep):
        """Return keep, turn, signal: x0 = keep · input + turn · output; signal is of x0 in input.

        By what the scheduler itself does, which hands the UNet an input of unit variance.
        """
        scheduler = self.pipeline.scheduler
        one = torch.ones((), dtype=torch.float64)
        if type(scheduler).__name__.startswith("EDM"):
            sigma = (4 * timestep.double()).exp()
            signal = scheduler.precondition_inputs(one, sigma)
            keep = scheduler.precondition_outputs(one / signal, 0 * one, sigma)
            return keep, scheduler.precondition_outputs(0 * one, one, sigma), signal
        signal = scheduler.scale_model_input(one, timestep)
        if signal == 1:  # it has that variance already
            signal = scheduler.alphas_cumprod[timestep.long()].double() ** 0.5
        noise = (1 - signal**2) ** 0.5
        if scheduler.config.prediction_type == "v_prediction":
            return signal, -noise, signal
        return 1 / signal, -noise / signal, signal

    def guide(self, unet, args, kwargs, output):
        if self.running:
            return None
        sample, timestep = args
        result = output[0]
        chunks = 2 if self.pipeline.do_classifier_free_guidance else 1
        first = len(sample) // chunks
        latent, rest = sample[:first, :4], sample[:first, 4:]
        keep, turn, signal = (float(part) for part in self.parts(timestep))
        x0 = keep * latent + turn * result[:first]
        height, width = latent.shape[-2:]
        steps = len(unet.config.block_out_channels) - 1
        grid = [-(-side // 2**steps) for side in (height, width)]
        columns = self.map.columns[:first].view(first, 1, *grid)
        mask = F.interpolate((columns > 1).float(), (height, width))
        degraded = blurred(x0, self.sigma) * mask + x0 * (1 - mask)
        noisy = torch.cat([latent + signal * (degraded - x0), rest], dim=1)
        self.running = True
        again = unet(noisy, timestep, **rows(kwargs, len(sample), first))[0]
        self.running = False
        term = self.scale * (degraded - keep * noisy[:, :4] - turn * again)
        return (result + (term / turn).repeat(chunks, 1, 1, 1), *output[1:])


def rows(value, batch, first):
    """Cut all that has a row for each of the batch to its first rows."""
    if isinstance(value, dict):
        return {name: rows(item, batch, first) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rows(item, batch, first) for item in value)
    if isinstance(value, torch.Tensor) and value.dim() and len(value) == batch:
        return value[:first]
    return value
