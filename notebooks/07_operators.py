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
# # Operators on plain tensors
# Under the patches are operators: functions of tensors that know no model. Each has kernels for CPUs and a form in plain
# torch, and a readable reference.

# %%
import time

import torch
import torch.nn.functional as F

from attnpatch import ops

generator = torch.Generator().manual_seed(0)


def tensors(*shape, count=1):
    found = [torch.randn(*shape, generator=generator) for _ in range(count)]
    return found if count > 1 else found[0]


# %% [markdown]
# ## Text attention and image branches in one pass
# One batch row, 8 heads of 40, 1024 queries, 77 text tokens; a branch of 16 image tokens with the weight 0.8.

# %%
q = tensors(1, 8, 1024, 40)
k, v = tensors(1, 8, 77, 40, count=2)
image_k, image_v = tensors(1, 8, 16, 40, count=2)
branch = ops.Branch(image_k, image_v, 0.8)
fused = ops.branch_attention(q, k, v, [branch])


def two_passes():
    """What the formula says: two attentions, and their weighted sum."""
    image = F.scaled_dot_product_attention(q, image_k, image_v)
    return F.scaled_dot_product_attention(q, k, v) + 0.8 * image


print(tuple(fused.shape), f"differs by {(fused - two_passes()).abs().max():.1e}")


# %% [markdown]
# ## Measuring
# By turns in one process, and the quickest of each: other programs make times longer, never shorter.


# %%
def quickest(rounds=20, **calls):
    spent = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            spent[name] = min(spent[name], time.perf_counter() - begin)
    return spent


torch.set_num_threads(1)
spent = quickest(fused=lambda: ops.branch_attention(q, k, v, [branch]), two_passes=two_passes)
print({name: f"{1e3 * seconds:.2f} ms" for name, seconds in spent.items()})
print(f"two passes take {spent['two_passes'] / spent['fused']:.1f} times as long")

# %% [markdown]
# ## How much attention each key gets, without the map
# What self-attention guidance records. The map of 1024 × 1024 is never there.

# %%
k, v = tensors(1, 8, 1024, 40, count=2)
out, share = ops.attention_column_mean(q, k, v)
weights = (q @ k.mT * 40**-0.5).softmax(-1)
print(tuple(share.shape), f"mean {share.mean():.3f}, most {share.max():.2f}")
print(f"differs by {(share - 1024 * weights.mean((1, 2))).abs().max():.1e}")

# %% [markdown]
# ## A bias of low rank on the scores
# Twice the attention to the first 100 keys: log 2 is added to their scores, without a matrix of queries by keys.

# %%
query_bias = torch.ones(1, 1024, 1)
key_bias = torch.zeros(1, 1024, 1)
key_bias[:, :100] = torch.log(torch.tensor(2.0))
gained = ops.biased_attention(q, k, v, query_bias, key_bias)
doubled = torch.cat([k[:, :, :100], k], 2), torch.cat([v[:, :, :100], v], 2)
twice = F.scaled_dot_product_attention(q, *doubled)
print(f"differs from counting them twice by {(gained - twice).abs().max():.1e}")

# %% [markdown]
# ## Fewer tokens of a grid
# Every second row and column of 32 × 32 tokens, each mixed with the mean of its cell.

# %%
grid = tensors(1, 1024, 320)
(few,) = ops.pool_tokens(grid, (32, 32), window=(2, 2), stride=(2, 2), blends=(0.5,))
print(tuple(grid.shape), "becomes", tuple(few.shape))
