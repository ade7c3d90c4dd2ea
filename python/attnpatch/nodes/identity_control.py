# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""InstantID's ControlNet in conditionings: it looks at the face's tokens instead of the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from attnpatch.engine.window import check_window
from attnpatch.nodes import comfy

__all__ = ["Conditioning", "add_control"]

Conditioning = Sequence[Sequence[Any]]  # entries [text tokens, options]


def add_control(
    control_net: Any,
    hint: Tensor,
    conditionings: tuple[Conditioning, Conditioning],
    tokens: tuple[Tensor, Tensor],
    strength: float,
    window: tuple[float, float],
    mask: Tensor | None,
) -> tuple[list[list[Any]], list[list[Any]]]:
    """Put a ControlNet into conditionings, after those that are there.

    Parameters
    ----------
    control_net
        The host's; copied, one copy for each ControlNet that it comes after.
    hint
        The picture of keypoints (pictures, H, W, 3), 0 to 1.
    conditionings, tokens
        Positive and negative, and the face's tokens for each.
    strength, window
        Of the ControlNet; window as start and end percents.
    mask
        Where the positive counts, (H, W) or (samples, H, W); None: everywhere.

    Returns
    -------
    tuple of list
        New entries; the old ones stay as they are.
    """
    window = check_window(*window)
    if mask is not None:
        mask = mask.to(comfy.compute_device())
        mask = mask[None] if mask.dim() < 3 else mask
    copies: dict[Any, Any] = {}
    results: list[list[list[Any]]] = []
    for number, conditioning in enumerate(conditionings):
        entries: list[list[Any]] = []
        for text, options in conditioning:
            before = options.get("control")
            if before not in copies:
                copy = control_net.copy()
                copy = copy.set_cond_hint(hint.movedim(-1, 1), strength, window)
                copy.set_previous_controlnet(before)
                copies[before] = copy
            control = copies[before]
            changes = {
                "control": control,
                "control_apply_to_uncond": False,
                "cross_attn_controlnet": tokens[number].to(
                    comfy.offload_device(), control.cond_hint_original.dtype
                ),
            }
            if mask is not None and number == 0:
                changes |= {"mask": mask, "set_area_to_bounds": False}
            entries.append([text, {**options, **changes}])
        results.append(entries)
    return results[0], results[1]
