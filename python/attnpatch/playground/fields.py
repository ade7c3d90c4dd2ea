# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""From what a page's fields hold to settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageChops

from attnpatch.playground.settings import PromptSettings, Settings, read_upload

__all__ = ["painted", "read_fields"]


def read_fields(prompts: Sequence[Mapping[str, Any]], rest: Mapping[str, Any]) -> Settings:
    """Make settings of fields.

    Parameters
    ----------
    prompts : sequence of mappings
        For each image prompt "picture", the path of an upload or None, "mask", what an editor gives
        or None, and the other fields of `PromptSettings`. Without a picture it is left out.
    rest : mapping
        The other fields of `Settings`. Whole numbers may come as floats, and None is a default.

    Raises
    ------
    TypeError, ValueError
        For uploads that are no pictures, and what is out of range.
    """
    read = []
    for place, fields in enumerate(prompts):
        if fields["picture"] is None:
            continue
        options = {**fields, "picture": read_upload(fields["picture"], f"reference {place + 1}")}
        options["mask"] = painted(fields["mask"])
        try:
            read.append(PromptSettings(**_given(options)))
        except (TypeError, ValueError) as error:
            raise type(error)(f"reference {place + 1}: {error}") from None
    numbers: dict[str, Any] = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in _given(rest).items()
    }
    return Settings(prompts=tuple(read), **numbers)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def painted(editor: Mapping[str, Any] | None) -> Image.Image | None:
    """Make a mask of what was painted: white where any layer has a colour; None: nothing painted.

    Parameters
    ----------
    editor : mapping or None
        With "layers", pictures of Pillow in RGBA of one size.
    """
    mask: Image.Image | None = None
    for layer in (editor or {}).get("layers") or []:
        alpha = layer.convert("RGBA").getchannel("A")
        mask = alpha if mask is None else ImageChops.lighter(mask, alpha.resize(mask.size))
    return mask if mask is not None and mask.getbbox() else None
