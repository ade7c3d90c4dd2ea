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
# # A patch of your own
# A patch is a frozen dataclass, and what it becomes for one model. Here is a whole one: self-attention that looks more
# sharply, or more broadly. Every host runs it.

# %%
from dataclasses import dataclass

import torch

import attnpatch as ap
from attnpatch.demo.clothes import load_clothes
from attnpatch.display import SideBySide
from attnpatch.engine import IMAGE, AttentionWrapper, BoundPatch, Edits, Patch

# %% [markdown]
# ## What surrounds the attention of a layer
# A wrapper gets queries, keys and values, and `inner`: attention without it. Scores are products of queries and keys, so that
# longer queries make the softmax sharper.


# %%
class Sharper(AttentionWrapper):
    """Multiplies the scores."""

    def __init__(self, factor):
        self.factor = factor

    def attend(self, site, q, k, v, inner):
        return inner(q * self.factor, k, v)


# %% [markdown]
# ## What is fitted to a model
# `skipped` says for each layer why the patch never acts there. `edits` says what it does in calls of one kind; these are kept,
# so that a step costs nothing.


# %%
class BoundFocus(BoundPatch):
    """Focus in one model."""

    keys = IMAGE  # beside the image's own tokens: self-attention
    time_dependent = False
    tells_roles_apart = False

    def __init__(self, patch, table):
        self.patch = patch
        self.table = table

    @property
    def skipped(self):
        deeper = f"deeper than level {self.patch.level}"
        return [deeper if layer.level > self.patch.level else None for layer in self.table]

    def time_key(self, call):
        return True  # active at any time

    def edits(self, call, time_key):
        acts = [layer for layer in self.table if layer.level <= self.patch.level]
        return Edits(wrappers={layer.index: Sharper(self.patch.factor) for layer in acts})


# %% [markdown]
# ## The patch
# `state` and `from_state` are all that files, pickles and copies need.


# %%
@dataclass(frozen=True)
class Focus(Patch):
    """Self-attention with its scores multiplied, at the first levels of a UNet."""

    factor: float = 1.0
    level: int = 9

    type_name = "focus"

    def bind(self, table, index=0):
        return BoundFocus(self, table)

    def state(self):
        return {"factor": self.factor, "level": self.level}, {}

    @classmethod
    def from_state(cls, values, tensors):
        return cls(**values)


Focus(2.0, level=1)

# %% [markdown]
# ## At work
# It stands in a stack beside others, and in the report.

# %%
pipeline = load_clothes().pipeline
pictures, captions = [], []
for factor in (0.2, 1.0, 3.0):
    noise = torch.Generator().manual_seed(2)
    with ap.attach(pipeline, [Focus(factor), ap.SelfAttentionGuidance(0.5)]):
        pictures += pipeline("ankle boot", num_images_per_prompt=3, generator=noise).images
    captions += [f"focus {factor:g}"] * 3
SideBySide(pictures, captions)

# %%
ap.PatchStack([Focus(2.0, level=1)]).bind("sdxl").report()

# %% [markdown]
# A factor of 1 must change nothing. That is a test worth writing first:

# %%
noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
text = pipeline.text(torch.tensor([3]))
with torch.inference_mode():
    plain = pipeline.unet(noise, 500, text).sample
    patched = ap.patch_model(pipeline.unet, Focus(1.0))(noise, 500, text).sample
    strong = ap.patch_model(pipeline.unet, Focus(3.0))(noise, 500, text).sample
print(
    f"factor 1 changes {(plain - patched).abs().max():.1e}, factor 3 {(plain - strong).abs().max():.1e}"
)
assert torch.allclose(plain, patched, atol=1e-5)
assert not torch.allclose(plain, strong, atol=1e-3)
