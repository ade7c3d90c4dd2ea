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
# # Identities and regions
# Several pictures at once, each in its own part; and people whose faces pictures keep.

# %%
import torch

import attnpatch as ap
from attnpatch.demo.clothes import load_clothes
from attnpatch.display import FacesIn, SideBySide

clothes = load_clothes()
pipeline, adapter, encoder = clothes.pipeline, clothes.adapter, clothes.encoder

# %% [markdown]
# ## Regions
# Masks may be soft, and may overlap. `ap.regions` says what happens there: they add up, the first one has priority, or they
# are normalised.

# %%
across = torch.linspace(1.5, -0.5, 32).clamp(0, 1).expand(32, 32)
first, second = (
    ap.ImagePrompt.from_pictures(adapter, clothes.pictures[i], encoder) for i in (0, 13)
)
stack = ap.regions(
    [first.replace(mask=across), second.replace(mask=across.flip(1))], overlap="normalise"
)
stack

# %%
with ap.attach(pipeline, stack):
    noise = torch.Generator().manual_seed(0)
    made = pipeline(num_images_per_prompt=5, generator=noise).images
SideBySide(
    [clothes.pictures[0], clothes.pictures[13], *made], ["left", "right", *["made"] * len(made)]
)

# %% [markdown]
# ## Faces
# Faces are found and recognised by OpenCV, from network files that users have:
#
# ```python
# analysis = ap.faces.FaceAnalysis("antelopev2")
# faces = analysis.detect("photograph.jpg")
# ```
#
# No such file comes with the package. So that this notebook runs without, the face below is written by hand; the photograph
# is the one that scikit-image brings (Eileen Collins, by NASA, public domain).

# %%
from skimage.data import astronaut

photograph = astronaut()
face = ap.faces.Face(
    box=[173, 62, 275, 205],
    score=0.98,
    keypoints=[[205, 116], [247, 115], [229, 143], [209, 164], [246, 163]],
    embedding=torch.randn(512, generator=torch.Generator().manual_seed(0)).numpy(),
)
FacesIn(photograph, [face])

# %% [markdown]
# InstantID's ControlNet is shown the keypoints as a picture:

# %%
drawn = ap.faces.draw_keypoints(face, *photograph.shape[:2])
SideBySide(
    [ap.faces.align_face(photograph, face, 224), drawn], ["for the recogniser", "for ControlNet"]
)

# %% [markdown]
# ## Identities
# `ap.Identity(adapter, face, 0.8)` keeps a person. Here the model has SDXL's 70 layers, a tenth as wide and with random
# weights, and the adapter InstantID's structure: it makes no portraits, but all the calls are real.

# %%
from attnpatch.demo.narrow_sdxl import SIDE, make_adapter, make_inputs, make_unet

unet = make_unet()
instantid = make_adapter(unet)
left = torch.zeros(SIDE, SIDE)
left[:, : SIDE // 2] = 1
person = ap.Identity(instantid, face, 0.8, mask=left)
patched = ap.patch_model(unet, person, cond_or_uncond=(1, 0))
ap.report(patched)

# %% [markdown]
# How much a step changes, and where: only the left half was named in the mask. The convolutions between the layers carry a
# little of it further.

# %%
with torch.inference_mode():
    plain, kept = (model(**make_inputs()).sample for model in (unet, patched))
change = (plain - kept).abs().mean((0, 1))


def grey(values):
    return (values / values.max())[..., None].expand(-1, -1, 3)


SideBySide([grey(left), grey(change)], ["mask", "change of a step"])
