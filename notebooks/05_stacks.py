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
# # Stacks: composing, saving, sharing
# A list of patches is a stack. It is a value: it adds, compares, prints, pickles, and goes to one file and back.

# %%
import tempfile
from pathlib import Path

import torch

import attnpatch as ap
from attnpatch.demo.clothes import load_clothes
from attnpatch.display import SideBySide

clothes = load_clothes()
pipeline, adapter, encoder = clothes.pipeline, clothes.adapter, clothes.encoder
prompt = ap.ImagePrompt.from_pictures(adapter, clothes.pictures[18], encoder, weight=0.7)

# %%
stack = ap.PatchStack([prompt, ap.SelfAttentionGuidance(0.5)]) + ap.SlothfulAttention()
stack

# %% [markdown]
# ## Comparing
# `diff` says what another stack has instead.

# %%
print(stack.diff(stack[:2] + ap.TokenMerging()))

# %% [markdown]
# ## Saving
# One safetensors file has everything that the patches are. Who gets it needs neither the adapter nor the encoder nor the
# reference picture, and it runs no code when it is read.

# %%
folder = Path(tempfile.mkdtemp())
stack.save(folder / "bag.safetensors")
shared = ap.PatchStack.load(folder / "bag.safetensors")
file, whole = (folder / "bag.safetensors").stat().st_size, adapter.state_dict()
weights = sum(tensor.nbytes for part in whole.values() for tensor in part.values())
print(
    f"equal: {shared == stack}; the file has {file / 1e3:.0f} kB, the adapter {weights / 1e3:.0f} kB"
)

# %%
with ap.attach(pipeline, shared):
    made = pipeline(num_images_per_prompt=5, generator=torch.Generator().manual_seed(1)).images
SideBySide([clothes.pictures[18], *made], ["reference", *["from the file"] * 5])

# %% [markdown]
# ## In and out of a model
# `attach` works in place, until the end of a `with` or `detach`. `patch_model` gives a copy that shares all weights.

# %%
patched = ap.patch_model(pipeline, stack)
same = patched.unet.conv_in.weight is pipeline.unet.conv_in.weight
print(
    f"the copy has {len(ap.attached(patched))} patches, the original {len(ap.attached(pipeline))}"
)
print(f"one set of weights: {same}")

# %% [markdown]
# A cell that runs again adds the same patches twice, unless it says `replace=True`.

# %%
ap.attach(pipeline, stack, replace=True)
ap.attach(pipeline, stack[:1], replace=True)
ap.attached(pipeline)

# %%
ap.detach(pipeline)
ap.attached(pipeline)

# %% [markdown]
# ## What acts where
# A report is a map of the model's layers. Where a patch never acts it says why.

# %%
ap.report(patched)
