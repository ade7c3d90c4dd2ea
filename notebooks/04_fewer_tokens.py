# ---
# jupyter:
#   SPDX-FileCopyrightText: 2026 The attnpatch authors
#   SPDX-License-Identifier: Apache-2.0
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: SPDX-FileCopyrightText,SPDX-License-Identifier
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fewer tokens, and their quality
# Self-attention compares every token with every other. Patches give it fewer keys: less work, and the picture should stay as
# it is. How far it is from that can be seen, and measured.

# %%
import time

import numpy as np
import torch
import torch.nn.functional as F

import attnpatch as ap
from attnpatch.demo.clothes import load_clothes
from attnpatch.display import SideBySide

clothes = load_clothes()
pipeline = clothes.pipeline


def make(*patches):
    noise = torch.Generator().manual_seed(11)
    with ap.attach(pipeline, patches):
        return pipeline(num_images_per_prompt=2, generator=noise).images


def distance(one, other):
    """Mean change of a pixel, as a part of the range from black to white."""
    pairs = zip(one, other, strict=True)
    return (
        np.mean([np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in pairs])
        / 255
    )


# %% [markdown]
# ## In pictures
# The largest grid of the small model has 8 × 8 tokens, so that four or nine times fewer is much.

# %%
reductions = {
    "Slothful 4": ap.SlothfulAttention(time_decay=0, in_slothful=4, out_slothful=4),
    "Slothful 9": ap.SlothfulAttention(time_decay=0, in_slothful=9, out_slothful=9),
    "merging 0.5": ap.TokenMerging(ratio=0.5),
    "tiles of 32": ap.HyperTile(tile_size=32),
}
exact = make()
rows, captions = [[picture] for picture in exact], ["all tokens"]
for name, patch in reductions.items():
    fewer = make(patch)
    captions.append(f"{name}: {distance(exact, fewer):.1%} off")
    for row, picture in zip(rows, fewer, strict=True):
        row.append(picture)
SideBySide(rows[0] + rows[1], captions * 2, height=120)

# %% [markdown]
# ## In numbers
# One layer of Stable Diffusion at 512 pixels, on plain tensors: 64 × 64 tokens, 8 heads, a batch of one. Tokens are a smooth
# field, as pictures' are. Times are measured by turns, and tell a ratio on this machine, no more.

# %%
layer = "down_blocks.0.attentions.0.transformer_blocks.0"
generator = torch.Generator().manual_seed(0)
field = torch.randn(1, 320, 9, 9, generator=generator)
tokens = F.interpolate(field, (64, 64), mode="bicubic").flatten(2).mT
q, k, v = (tokens @ torch.randn(320, 320, generator=generator) / 320**0.5 for _ in "qkv")


def run(bound):
    return bound.attend(layer, q, k, v, heads=8, keys="image", latent=(64, 64), progress=0.5)


bound = {"all tokens": ap.PatchStack().bind("sd1")}
bound |= {name: ap.PatchStack(patch).bind("sd1") for name, patch in reductions.items()}
spent = {name: [] for name in bound}
for _ in range(3):
    for name, stack in bound.items():
        begin = time.perf_counter()
        result = run(stack)
        spent[name].append(time.perf_counter() - begin)
wanted = run(bound["all tokens"])
for name, stack in bound.items():
    error = ((run(stack) - wanted).square().mean() / wanted.square().mean()).sqrt()
    ratio = min(spent["all tokens"]) / min(spent[name])
    print(f"{name:12} error {error:6.3f}   {ratio:4.1f} times as fast")

# %% [markdown]
# Attention to tiles alone is quick and blind to what lies outside; pooled tokens see everything, coarsely. What each patch
# costs in exactness at many settings is in
# [docs/token-reduction.md](../docs/token-reduction.md).
#
# ## When, and where
# Slothful Attention is strongest at a time that one chooses. Its card draws that.

# %%
ap.SlothfulAttention(peak_time=0.3, time_decay=2.0)

# %%
with ap.attach(pipeline, ap.SlothfulAttention()):
    report = ap.report(pipeline)
report
