# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Normalized attention guidance as its authors write it, beside a layer's own projections."""

import torch
import torch.nn.functional as F


def guided(plus, minus, *, scale=5.0, tau=2.5, alpha=0.25):
    """Lead outputs (rows, tokens, channels) away from those of the negative text."""
    away = plus * scale - minus * (scale - 1)
    ratio = away.norm(p=1, dim=-1, keepdim=True) / plus.norm(p=1, dim=-1, keepdim=True)
    away = away * torch.minimum(ratio, torch.full_like(ratio, tau)) / ratio
    return away * alpha + plus * (1 - alpha)


def attend(q, k, v, heads, mask=None):
    """Attend plainly, (rows, tokens, channels)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class ReferenceProcessor:
    """diffusers' plain attention processor, with the guidance in some rows.

    Parameters
    ----------
    texts : list of Tensor or None
        For each row of the batch its negative text (tokens, channels); None: it is plain.
    added : float
        What another processor adds to what the layer gives.
    """

    def __init__(self, texts, added=0.0, **numbers):
        self.texts, self.added, self.numbers = texts, added, numbers

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        q = attn.to_q(hidden_states)
        k, v = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        mask = None
        if attention_mask is not None:
            rows = len(q)
            mask = attn.prepare_attention_mask(attention_mask, k.shape[1], rows)
            mask = mask.view(rows, attn.heads, -1, mask.shape[-1])
        out = attend(q, k, v, attn.heads, mask)
        found = []
        for row, text in enumerate(self.texts):
            plus = out[row : row + 1]
            if text is not None:
                text = text[None]
                minus = attend(q[row : row + 1], attn.to_k(text), attn.to_v(text), attn.heads)
                plus = guided(plus, minus, **self.numbers)
            found.append(plus)
        return attn.to_out[0](torch.cat(found)) + self.added


def reference(unet, inputs, texts, **options):
    """Run a UNet of diffusers with the guidance as its authors write it."""
    before = unet.attn_processors
    processor = ReferenceProcessor(texts, **options)
    unet.set_attn_processor(
        {n: processor if n.endswith("attn2.processor") else p for n, p in before.items()}
    )
    try:
        with torch.no_grad():
            return unet(**inputs).sample
    finally:
        unet.set_attn_processor(before)
