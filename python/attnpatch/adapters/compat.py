# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Programs that image prompts can imitate where they err: the values of ``compat``."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["Compat", "check_compat", "is_node_pack"]

Compat = Literal["comfyui_ipadapter_plus", "comfyui_instantid", "fooocus"]
"""A program by its repository's name, in lower case."""


def check_compat(compat: str | None) -> Compat | None:
    """Return what `compat` names.

    Raises
    ------
    ValueError
        No program that image prompts can imitate.
    """
    if compat is None:
        return None
    for program in get_args(Compat):
        if compat == program:
            return program
    known = ", ".join(map(repr, get_args(Compat)))
    raise ValueError(f"compat: expected None or one of {known}, got {compat!r}")


def is_node_pack(compat: str | None) -> bool:
    """Whether it is one of ComfyUI's node packs, which err alike."""
    return compat in ("comfyui_ipadapter_plus", "comfyui_instantid")
