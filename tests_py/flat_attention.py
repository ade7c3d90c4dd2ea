# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A stack's part of attention for tensors (batch, tokens, channels), as UNets have them."""

import torch

from attnpatch.engine.heads import join_heads, split_heads


def attend_flat(acting, q, k, v, heads, attention, is_softmax=True):
    """Attend by what ``BoundStack.at`` gave, around an attention of such tensors."""

    def host_attention(*given):
        return split_heads(attention(*(join_heads(x) for x in given)), heads)

    apart = (split_heads(x, heads) for x in (q, k, v))
    return join_heads(acting.attend(*apart, host_attention, is_softmax=is_softmax))


def branches_at(bound, site, dtype=torch.float32, device="cpu"):
    """Return the image branches at a site; None: there are none."""
    acting = bound.at(site)
    return None if acting is None else acting.branches(dtype, torch.device(device))


def terms_at(bound, site, q, k=None, v=None, *, heads):
    """Return what image branches add to a foreign base; None: nothing."""
    acting = bound.at(site)
    if acting is None:
        return None
    k, v = (None if x is None else split_heads(x, heads) for x in (k, v))
    terms = acting.terms(split_heads(q, heads), k, v)
    return None if terms is None else join_heads(terms)
