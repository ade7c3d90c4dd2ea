# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows of a batch are cond and which uncond, told by the pipeline that is running."""

from __future__ import annotations

from typing import Any

COND, UNCOND = 0, 1


def chunks_of(pipeline: Any, batch: int) -> tuple[int, ...] | None:
    """Return the kind of each equal chunk of a batch that `pipeline` hands to its UNet.

    Parameters
    ----------
    pipeline
        A pipeline of diffusers, or None.
    batch
        Rows of the batch.

    Returns
    -------
    tuple of int or None
        0 cond, 1 uncond: ``(1, 0)`` under classifier-free guidance; the third chunk of
        perturbed-attention guidance is cond. None: the pipeline does not tell.
    """
    guided = getattr(pipeline, "do_classifier_free_guidance", None)
    if not isinstance(guided, bool):
        return None
    if guided and hasattr(pipeline, "image_guidance_scale"):  # InstructPix2Pix
        chunks: tuple[int, ...] = (COND, UNCOND, UNCOND)
    else:
        chunks = (UNCOND, COND) if guided else (COND,)
        if getattr(pipeline, "do_perturbed_attention_guidance", False) is True:
            chunks = (*chunks, COND)
    return chunks if batch % len(chunks) == 0 else None
