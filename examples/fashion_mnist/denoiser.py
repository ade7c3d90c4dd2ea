# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""UNet, class tokens and adapter as they are trained together."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from attnpatch.demo.model import CONTEXT_DIM, EMBED_DIM, IMAGE_TOKENS, ClassTokens, make_unet
from attnpatch.engine.heads import join_heads, split_heads


class ImageProjection(nn.Module):
    """IP-Adapter's linear projection: an embedding (B, 192) to image tokens (B, 4, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(EMBED_DIM, IMAGE_TOKENS * CONTEXT_DIM)
        self.norm = nn.LayerNorm(CONTEXT_DIM)

    def forward(self, embeds: torch.Tensor) -> torch.Tensor:
        """Project embeddings; zeros stand for "no image" (the uncond side)."""
        return self.norm(self.proj(embeds).view(-1, IMAGE_TOKENS, CONTEXT_DIM))


class SiteProjection(nn.Module):
    """One cross-attention site's keys and values of the image tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(CONTEXT_DIM, channels, bias=False)
        self.to_v_ip = nn.Linear(CONTEXT_DIM, channels, bias=False)


class Adapter(nn.Module):
    """An IP-Adapter whose state dict has the layout of the published checkpoints.

    ``image_proj.*`` and ``ip_adapter.{1,3,5,...}.to_{k,v}_ip.weight``, sites in the order of
    diffusers' processors: down, up, middle.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.image_proj = ImageProjection()
        sites = {str(2 * i + 1): SiteProjection(c) for i, c in enumerate(channels)}
        self.ip_adapter = nn.ModuleDict(sites)


class AdapterProcessor:
    """Trainable decoupled cross-attention, one per site, for training and evaluation only.

    Computes Attn(q, text) + weight * Attn(q, image) with a weight per picture; everything else of
    the project runs image prompts through `attnpatch.ImagePrompt`. Without a site it is plain
    attention, of the states to themselves where there is no text.
    """

    def __init__(self, site: SiteProjection | None) -> None:
        self.site = site

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        image_tokens: torch.Tensor | None = None,
        image_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run one site: hidden states (B, N, C), text (B, T, 64), image tokens (B, M, 64)."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = split_heads(attn.to_q(hidden_states), attn.heads)
        key = split_heads(attn.to_k(context), attn.heads)
        value = split_heads(attn.to_v(context), attn.heads)
        out = F.scaled_dot_product_attention(query, key, value)
        if self.site is not None and image_tokens is not None and image_weights is not None:
            key = split_heads(self.site.to_k_ip(image_tokens), attn.heads)
            value = split_heads(self.site.to_v_ip(image_tokens), attn.heads)
            image = F.scaled_dot_product_attention(query, key, value)
            out = out + image_weights[:, None, None, None] * image
        out = join_heads(out)
        return attn.to_out[1](attn.to_out[0](out))


def site_channels(unet: Any) -> tuple[int, ...]:
    """List the channels of the UNet's cross-attention sites in checkpoint order."""
    names = [name for name in unet.attn_processors if ".attn2." in name]
    return tuple(_attention(unet, name).to_q.in_features for name in names)


def attach_trainable(unet: Any, adapter: Adapter) -> None:
    """Route the UNet's attention through the adapter's own parameters, for training."""
    processors: dict[str, Any] = {}
    sites = iter(adapter.ip_adapter.values())
    for name in unet.attn_processors:
        cross = ".attn2." in name
        processors[name] = AdapterProcessor(next(sites) if cross else None)
    unet.set_attn_processor(processors)


def _attention(unet: Any, processor_name: str) -> Any:
    return unet.get_submodule(processor_name.removesuffix(".processor"))


class Denoiser(nn.Module):
    """UNet, class tokens and adapter, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = make_unet()
        self.text = ClassTokens()
        self.adapter = Adapter(site_channels(self.unet))
        attach_trainable(self.unet, self.adapter)

    def forward(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        classes: torch.Tensor,
        embeds: torch.Tensor,
        image_weights: torch.Tensor,
    ) -> torch.Tensor:
        """Predict v (B, 4, 16, 16) from noisy latents and the two kinds of prompt."""
        prompt = {
            "image_tokens": self.adapter.image_proj(embeds),
            "image_weights": image_weights,
        }
        text = self.text(classes)
        return self.unet(
            latents, timesteps, text, cross_attention_kwargs=prompt, return_dict=False
        )[0]
