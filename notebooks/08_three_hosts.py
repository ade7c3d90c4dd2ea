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
# # The same three lines in diffusers, ComfyUI and Fooocus
# Patches know no program. `ap.patch_model(model, patches)` recognises the host by what its objects look like, and gives a
# patched copy that shares all weights.

# %%
import torch

import attnpatch as ap
from attnpatch.demo.clothes import load_clothes
from attnpatch.display import SideBySide

clothes = load_clothes()
pipeline, adapter, encoder = clothes.pipeline, clothes.adapter, clothes.encoder

# %% [markdown]
# ## diffusers
# A pipeline or a UNet.

# %%
picture = clothes.pictures[13]
prompt = ap.ImagePrompt.from_pictures(adapter, picture, encoder, weight=0.8)
patched = ap.patch_model(pipeline, [prompt, ap.SelfAttentionGuidance(0.5)])

# %%
noise = torch.Generator().manual_seed(4)
SideBySide([picture, *patched(num_images_per_prompt=5, generator=noise).images])

# %% [markdown]
# ## ComfyUI
# In a node of your own, with the ``model`` that it is given:
#
# ```python
# prompt = ap.ImagePrompt.from_pictures(adapter, image, clip_vision, weight=0.8)
# patched = ap.patch_model(model, [prompt, ap.SelfAttentionGuidance(0.5)])
# return (patched,)
# ```
#
# Or without any code: the package has nodes with the names and inputs that workflows of the known packs use.

# %%
nodes = ap.nodes.NODE_CLASS_MAPPINGS
print(f"{len(nodes)} nodes, such as {', '.join(sorted(nodes)[:6])}")

# %% [markdown]
# ## Fooocus
# The same call takes its ``ModelPatcher``. Or the whole of `extras/ip_adapter.py` becomes one line:
#
# ```python
# from attnpatch.hosts.fooocus.ip_adapter import *
# ```
#
# ## Nothing but tensors
# What attention computes in a layer, for code that has no host at all:

# %%
bound = ap.PatchStack([ap.SlothfulAttention()]).bind("sdxl")
q, k, v = (torch.randn(1, 4096, 640) for _ in "qkv")
layer = "down_blocks.1.attentions.0.transformer_blocks.0"
out = bound.attend(layer, q, k, v, heads=10, keys="image", latent=(128, 128), progress=0.3)
print(tuple(out.shape))

# %% [markdown]
# ## One file for all
# A stack that one program saved is read by the others, in a node of your own for one.

# %%
import tempfile
from pathlib import Path

path = Path(tempfile.mkdtemp()) / "stack.safetensors"
ap.attached(patched).save(path)
ap.PatchStack.load(path)
