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
# # Guidance
# Guidance leads sampling away from what the model predicts when something is taken from it. Each is a patch, for any sampler.

# %%
import torch

import attnpatch as ap
from attnpatch.demo.clothes import load_clothes
from attnpatch.display import AttentionOver, SideBySide

clothes = load_clothes()
pipeline = clothes.pipeline


def make(*patches, count=2, seed=7, prompt="sneaker"):
    noise = torch.Generator().manual_seed(seed)
    with ap.attach(pipeline, patches):
        return pipeline(prompt, num_images_per_prompt=count, generator=noise).images


# %% [markdown]
# ## Away from a blurred picture
# Self-attention guidance (SAG) blurs the prediction where the model looks, and leads away from that.

# %%
pictures, captions = make(), ["plain"] * 2
for scale in (0.5, 1.5):
    pictures += make(ap.SelfAttentionGuidance(scale))
    captions += [f"SAG {scale:g}"] * 2
SideBySide(pictures, captions)

# %% [markdown]
# Where did it look? `ap.recorded_attention` has the last step. The small model's middle block sees 4 × 4 tokens.

# %%
with ap.attach(pipeline, ap.SelfAttentionGuidance(1.0)):
    noise = torch.Generator().manual_seed(7)
    made = pipeline("sneaker", num_images_per_prompt=2, generator=noise).images
    seen = ap.recorded_attention(pipeline)
AttentionOver(seen, made)

# %% [markdown]
# ## Away from degraded attention
# Perturbed-attention guidance (PAG) lets each token of some blocks see itself alone; smoothed-energy guidance (SEG) blurs
# what they ask for. `blocks` names where: in this small model everywhere, in large ones the middle block does.

# %%
everywhere = "d0,d1,m0,u0,u1,u2,u3"
pag = ap.PerturbedAttentionGuidance(2.0, blocks=everywhere)
seg = ap.SmoothedEnergyGuidance(6.0, blocks=everywhere)
SideBySide(make() + make(pag) + make(seg), ["plain"] * 2 + ["PAG"] * 2 + ["SEG"] * 2)

# %% [markdown]
# A scale may follow a curve, and several guidances may act together. The card shows both; the report shows where.

# %%
stack = ap.PatchStack(
    [
        ap.SelfAttentionGuidance(ap.Weight(3.0, curve=[(0, 1), (0.6, 0)])),
        ap.PerturbedAttentionGuidance(2.0, blocks="m0,u0", start=0.2, rescale=0.7),
    ]
)
stack

# %%
with ap.attach(pipeline, stack) as attachment:
    report = ap.report(pipeline)
report

# %% [markdown]
# ## Away from a text, within attention
# Normalized attention guidance (NAG) has a negative prompt of its own. Here it leads coats away from pullovers.

# %%
from attnpatch.demo.items import CLASS_NAMES

negative = pipeline.text(torch.tensor([CLASS_NAMES.index("pullover")]))
pictures, captions = make(prompt="coat"), ["plain"] * 2
for scale, alpha in ((4.0, 0.5), (12.0, 1.0)):
    nag = ap.NormalizedAttentionGuidance(negative, scale, alpha=alpha)
    pictures += make(nag, prompt="coat")
    captions += [f"NAG {scale:g}"] * 2
SideBySide(pictures, captions)
