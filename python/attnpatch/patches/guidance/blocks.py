# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The field's short way to name blocks of a UNet: "m0,u0.4,d2.2-9"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attnpatch._core import Layer, LayerTable

__all__ = ["check_blocks", "find_blocks"]

_PARTS = {"d": "input", "m": "middle", "u": "output"}
# Blocks, one or a range (whose end may repeat the letter), then transformers, one or a range.
_ITEM = re.compile(r"([dmu])(\d+)(?:-\1?(\d+))?(?:\.(\d+)(?:-(\d+))?)?")


def check_blocks(blocks: str) -> str:
    """Return `blocks` in its normal form: no spaces, small letters.

    Raises
    ------
    TypeError, ValueError
        For what is not of the grammar of ``find_blocks``.
    """
    if not isinstance(blocks, str):
        raise TypeError(f"blocks: expected a text such as 'm0,u0.4,d2.2-9', got {blocks!r}")
    items = ["".join(item.split()).lower() for item in blocks.split(",") if item.strip()]
    for item in items:
        match = _ITEM.fullmatch(item)
        ends = () if match is None else ((match[2], match[3]), (match[4], match[5]))
        if match is None or any(end is not None and int(end) < int(first) for first, end in ends):
            raise ValueError(
                "blocks: expected d, m or u and a block's number or range, then perhaps a dot and "
                f"a transformer's number or range, such as 'm0,u0.4,d2.2-9'; got {item!r}"
            )
    if not items:
        raise ValueError(f"blocks: expected at least one, such as 'm0'; got {blocks!r}")
    return ",".join(items)


def find_blocks(table: LayerTable, blocks: str) -> frozenset[Layer]:
    """Return the layers of a UNet that `blocks` names.

    Parameters
    ----------
    table
        The UNet's layers.
    blocks
        Names with commas between them. d is the downward path (input), m the middle, u the upward
        path (output); then comes a number, or a range as in "d0-3", among those blocks of the path
        that have attention, counted from 0 in forward order: SD1.x has d0 to d5, m0, u0 to u8, and
        SDXL d0 to d3, m0, u0 to u5. After a dot comes one transformer block of the many that a
        block may have, or a range of them; without it all are meant.

    Raises
    ------
    ValueError
        For blocks that the UNet has not, saying which it has.
    """
    chosen: set[Layer] = set()
    for item in check_blocks(blocks).split(","):
        match = _ITEM.fullmatch(item)
        assert match is not None  # checked
        part, first, last, inner, inner_last = match.groups()
        path = _path(table, _PARTS[part])
        for number in range(int(first), int(last or first) + 1):
            layers = path[number] if number < len(path) else ()
            wanted = range(len(layers))
            if inner is not None:
                wanted = range(int(inner), int(inner_last or inner) + 1)
            if not layers or wanted.stop > len(layers):
                raise ValueError(
                    f"blocks: {item!r} is not in this UNet ({table.family}), which has "
                    f"{_describe(table)}"
                )
            chosen.update(layers[index] for index in wanted)
    return frozenset(chosen)


def _path(table: LayerTable, block: str) -> Sequence[Sequence[Layer]]:
    """For each block of a path that has attention its layers, in forward order."""
    numbers: dict[int, list[Layer]] = {}
    for layer in table:
        if layer.block == block:
            numbers.setdefault(layer.number, []).append(layer)
    return [
        sorted(layers, key=lambda layer: layer.transformer) for _, layers in sorted(numbers.items())
    ]


def _describe(table: LayerTable) -> str:
    parts = [
        f"{letter}{number}" + (f".0-{len(layers) - 1}" if len(layers) > 1 else "")
        for letter, block in _PARTS.items()
        for number, layers in enumerate(_path(table, block))
    ]
    return ", ".join(parts)
