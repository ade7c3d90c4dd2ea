# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Layers that go by their names in diffusers' UNet: their order, and which are missing."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from attnpatch import _core
from attnpatch.adapters.layout import FAMILIES

UNET_BLOCKS = ("down_blocks", "up_blocks", "mid_block")  # in the order of checkpoints
_NUMBERED = re.compile(r"(attentions|transformer_blocks)\.(\d+)")
_ATTENTION = re.compile(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)")


def sort_layers(names: Iterable[str]) -> list[str]:
    """Sort names of transformer blocks as checkpoints count them: down, up, middle."""
    return sorted(names, key=_place)


def missing_layers(
    names: Collection[str], context: int, unet_layers: Collection[str] = ()
) -> list[str]:
    """Which layers an adapter lacks, as far as the names of the others tell.

    Parameters
    ----------
    names : collection of str
        The transformer blocks that the adapter has weights for,
        ``down_blocks.0.attentions.0.transformer_blocks.0``.
    context : int
        Columns of their weights.
    unet_layers : collection of str
        The UNet's own layers with cross-attention, where the file holds the UNet too: these
        settle it.

    Returns
    -------
    list of str
        In checkpoint order.
    """
    if unet_layers:
        return sort_layers(set(unet_layers) - set(names))
    return sort_layers(_gaps(names) or _missing_of_family(set(names), context))


def _place(name: str) -> tuple[int, list[int], str]:
    root, _, rest = name.partition(".")
    return UNET_BLOCKS.index(root), [int(number) for number in re.findall(r"\d+", rest)], name


def _gaps(names: Iterable[str]) -> set[str]:
    """Attentions and transformer blocks that are skipped in the count of their parent."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for name in names:
        for match in _NUMBERED.finditer(name):
            parent = f"{name[: match.start()]}{match[1]}"
            child = ".transformer_blocks.0" if ".transformer_" in name[match.end() :] else ""
            numbers.setdefault((parent, child), set()).add(int(match[2]))
    return {
        f"{parent}.{number}{child}"
        for (parent, child), present in numbers.items()
        for number in set(range(max(present))) - present
    }


def _missing_of_family(names: set[str], context: int) -> set[str]:
    """List what a file lacks that holds a part of a known UNet's layers.

    Smaller UNets exist that have a part of these layers by design. They mirror: as many down blocks
    with attention as up blocks, which have one attention more, and equal depths within a block.
    """
    for family, (size, _) in FAMILIES.items():
        known = {layer.name for layer in _core.layer_table(family)}
        if size == context and names < known and not _mirrors(names):
            return known - names
    return set()


def _mirrors(names: set[str]) -> bool:
    depths: dict[tuple[str, int], dict[int, int]] = {}
    for name in names:
        if match := _ATTENTION.match(name):
            block = depths.setdefault((match[1], int(match[2])), {})
            block[int(match[3])] = block.get(int(match[3]), 0) + 1
    down = {number: block for (side, number), block in depths.items() if side == "down"}
    up = {number: block for (side, number), block in depths.items() if side == "up"}
    if not down or not up:
        return False
    last = max(down) + min(up)
    return (
        all(len(set(block.values())) == 1 for block in depths.values())
        and {last - number for number in down} == set(up)
        and all(len(up[last - number]) == len(block) + 1 for number, block in down.items())
    )
