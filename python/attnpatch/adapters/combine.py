# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What several reference pictures become."""

from __future__ import annotations

import torch

from attnpatch.adapters.compat import Compat, check_compat, is_node_pack

COMBINE_MODES = (
    "concat",
    "batch",
    "add",
    "subtract",
    "average",
    "norm average",
    "max",
    "min",
)


def combine_features(
    features: torch.Tensor, mode: str, *, compat: Compat | None = None
) -> torch.Tensor:
    """Reduce the features of P pictures to those of one; "concat" and "batch" leave them.

    Parameters
    ----------
    features : torch.Tensor
        (P, ...).
    mode : str
        One of `COMBINE_MODES`.
    compat : str, optional
        A node pack: "norm average" divides by the norm over the pictures instead of each feature's
        own.

    Returns
    -------
    torch.Tensor
        (1, ...), or what was given.
    """
    imitates = is_node_pack(check_compat(compat))
    if mode in ("concat", "batch") or (features.shape[0] == 1 and mode != "norm average"):
        return features
    if mode == "add":
        return features.sum(0, keepdim=True)
    if mode == "subtract":
        return features[:1] - features[1:].mean(0, keepdim=True)
    if mode == "average":
        return features.mean(0, keepdim=True)
    if mode == "max":
        return features.amax(0, keepdim=True)
    if mode == "min":
        return features.amin(0, keepdim=True)
    norm = torch.linalg.vector_norm(features, dim=0 if imitates else -1, keepdim=True)
    tiny = torch.finfo(features.dtype).tiny  # so that features of zeros stay zeros
    return (features / norm.clamp_min(tiny)).mean(0, keepdim=True)


def join_tokens(tokens: torch.Tensor) -> torch.Tensor:
    """Put the tokens of all rows into one: (P, T, C) -> (1, P·T, C)."""
    return tokens.reshape(1, -1, tokens.shape[-1])
