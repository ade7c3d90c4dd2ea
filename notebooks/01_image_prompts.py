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
# # Image prompts
# An image prompt is a picture that a UNet attends to beside its text.
#
# Everything here runs on the small model that is in the package: it makes clothes of 32 × 32 pixels, on any CPU, with no
# download. The calls are those for Stable Diffusion; only the first cell differs.

# %%
import torch

import attnpatch as ap
from attnpatch.demo.clothes import load_clothes
from attnpatch.display import SideBySide

clothes = load_clothes()
pipeline, adapter, encoder = clothes.pipeline, clothes.adapter, clothes.encoder

# %% [markdown]
# With your own model it reads
#
# ```python
# pipeline = StableDiffusionPipeline.from_pretrained(…)
# encoder = CLIPVisionModelWithProjection.from_pretrained("h94/IP-Adapter", subfolder="models/image_encoder")
# adapter = ap.load_image_adapter("h94/IP-Adapter", subfolder="models", weight_name="ip-adapter_sd15.safetensors")
# ```
#
# What a file is follows from its tensors. An adapter shows what it takes, what becomes of that, and for which layers:

# %%
adapter

# %% [markdown]
# ## Without and with a picture
# All pictures below start from the same noise.


# %%
def make(count=6, seed=0, steps=10):
    noise = torch.Generator().manual_seed(seed)
    made = pipeline(num_images_per_prompt=count, num_inference_steps=steps, generator=noise)
    return made.images


reference = clothes.pictures[1]
prompt = ap.ImagePrompt.from_pictures(adapter, reference, encoder, weight=0.8)
with ap.attach(pipeline, prompt):
    prompted = make()
SideBySide([reference, *make()], ["reference", *["without"] * 6])

# %%
SideBySide([reference, *prompted], ["reference", *["with"] * 6])

# %% [markdown]
# After the `with` the pipeline is as it was before. A prompt is a value: keys and values of every layer were projected once,
# and the adapter can be dropped.

# %%
prompt

# %% [markdown]
# ## How strongly: the weight
# `replace` makes a prompt with another weight. It shares the keys and values.

# %%
pictures, captions = [reference], ["reference"]
for weight in (0.1, 0.25, 0.5, 1.0):
    with ap.attach(pipeline, prompt.replace(weight=weight)):
        pictures += make(1, seed=3)
    captions.append(f"weight {weight}")
SideBySide(pictures, captions)

# %% [markdown]
# ## When: windows and curves
# Early steps set the shape, late ones the surface. `start` and `end` are parts of sampling; a curve changes the weight as
# sampling goes on.

# %%
early = prompt.replace(weight=1.0, end=0.3)
late = prompt.replace(weight=1.0, start=0.3)
falling = prompt.replace(weight=ap.Weight(1.0, curve=[(0, 1), (0.6, 0)]))
pictures, captions = [reference], ["reference"]
for name, variant in (("early", early), ("late", late), ("falling", falling)):
    with ap.attach(pipeline, variant):
        pictures += make(2, seed=3)
    captions += [name] * 2
SideBySide(pictures, captions)

# %%
falling

# %% [markdown]
# ## Where: masks
# A mask covers the whole picture in any size, and lands on the token grid of each layer.

# %%
left = torch.zeros(32, 32)
left[:, :16] = 1
other = ap.ImagePrompt.from_pictures(adapter, clothes.pictures[13], encoder)
both = [prompt.replace(weight=1.0, mask=left), other.replace(mask=1 - left)]
with ap.attach(pipeline, both) as attachment:
    halves = make()
SideBySide([reference, clothes.pictures[13], *halves], ["left", "right", *["both"] * len(halves)])

# %% [markdown]
# ## Several pictures
# One prompt of several pictures, with the tokens of all; or one for each picture of a batch.

# %%
three = [clothes.pictures[i] for i in (0, 13, 18)]
mixed = ap.ImagePrompt.from_pictures(adapter, three, encoder)
each = ap.ImagePrompt.from_pictures(adapter, three, encoder, combine="batch")
pictures = list(three)
for variant in (mixed, each):
    with ap.attach(pipeline, variant):
        pictures += make(3, seed=5)
SideBySide(pictures, ["reference"] * 3 + ["of all three"] * 3 + ["one for each"] * 3)

# %% [markdown]
# The image tokens themselves are a value too: `adapter.encode` gives them, `save` writes them, `ap.load_embeds` reads them.

# %%
adapter.encode(three, encoder, combine="batch")
