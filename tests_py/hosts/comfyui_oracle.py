# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image prompts in the small ComfyUI, ours and written out plainly with its own replace slots."""

from __future__ import annotations

import torch
from fooocus_oracle import make_task, split_pairs
from protocol_unet import SD1, attention
from torch.nn import functional as F

from attnpatch import ImagePrompt

WIDTH = 16


def make_pairs(structure=SD1, *, pictures=1, seed=1):
    """Return keys and values of cond and uncond, pairs for each layer."""
    (conds, unconds), _, _ = make_task(structure, WIDTH, pictures=pictures, seed=seed)
    return split_pairs(conds), split_pairs(unconds)


def make_prompt(structure=SD1, *, pictures=1, seed=1, **options):
    return ImagePrompt.from_keys_values(
        *make_pairs(structure, pictures=pictures, seed=seed), **options
    )


def grid_at(latent, level):
    """Return what stride-2 convolutions with padding make of a latent's height and width."""
    for _ in range(level):
        latent = tuple((side + 1) // 2 for side in latent)
    return latent


def plainly(
    model, structure=SD1, *, weight=1.0, mask=None, start=0.0, end=1.0, pictures=1, seed=1, roles=()
):
    """Return a clone with a decoupled image prompt as the host's own patches would do it.

    `roles` says what chunks other than 0 are; by default they are uncond.
    """
    conds, unconds = make_pairs(structure, pictures=pictures, seed=seed)
    clone = model.clone()
    sampling = model.model.model_sampling
    low, high = sampling.percent_to_sigma(end), sampling.percent_to_sigma(start)

    def make(number, level):
        def replace(q, k, v, options):
            heads, chunks = options["n_heads"], options["cond_or_uncond"]
            out = attention(q, k, v, heads)
            if not low <= float(options["sigmas"][0]) <= high:
                return out
            rows = len(q) // len(chunks)
            window = options.get("ad_params", {}).get("sub_idxs") or range(rows)

            def tokens(part):
                found = []
                for chunk in chunks:
                    many = (conds if dict(roles).get(chunk, chunk) == 0 else unconds)[number][part]
                    found += [many[place if len(many) > 1 else 0] for place in window]
                return torch.stack(found).to(q)

            term = weight * attention(q, tokens(0), tokens(1), heads)
            if mask is not None:
                grid = grid_at(options["original_shape"][2:], level)
                small = F.interpolate(mask[:, None], grid, mode="bilinear").flatten(2)
                small = torch.cat([small[[min(i, len(small) - 1) for i in window]]] * len(chunks))
                term = term * small.transpose(1, 2).to(q)
            return out + term

        return replace

    for number, (key, _, level) in enumerate(structure.sites()):
        clone.set_model_attn2_replace(make(number, level), *key)
    return clone


def relative(ours, theirs):
    """Largest difference over largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
