# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Provisional."""

import torch.nn.functional as F

from attnpatch.ops.plain.biased_attention import padded


def biased_attention(q, k, v, query_bias=None, key_bias=None, *, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    gqa = q.shape[1] != k.shape[1]
    if query_bias is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=gqa)
    return F.scaled_dot_product_attention(
        *padded(q, k, v, query_bias, key_bias, scale), scale=scale, enable_gqa=gqa
    )[..., : v.shape[-1]]
