# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What other packs put beside our slots after we filled them: for one call, or for good.

A host looks for a slot of a layer, key (block, number, transformer), and only then for one of the
whole block, key (block, number). Ours are of layers, and would hide a block's that came later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attnpatch.hosts.comfyui.options import OTHERS, Others
from attnpatch.hosts.comfyui.patched_model import PatchedModel
from attnpatch.hosts.comfyui.unet.attn_replace import Attn1Patch, Attn2Patch, AttnReplace

_TEXT_PLACE, _OPTIONS_PLACE = 2, 5  # among the arguments of the host's UNet


def find_others(
    options: Mapping[str, Any], slots: Iterable[tuple[str, tuple[Any, ...], int]]
) -> Others:
    """Return the sites where the options of a call have another callable than our slot knows.

    Parameters
    ----------
    options
        The host's ``transformer_options``.
    slots
        Attention ("attn1" or "attn2"), key and layer of each slot that we filled.
    """
    replaced = options.get("patches_replace", {})
    others: dict[tuple[str, int], Callable[..., Any] | None] = {}
    for attention, key, layer in slots:
        replacements = replaced.get(attention, {})
        slot = replacements.get(key)
        if not isinstance(slot, AttnReplace):
            others[attention, layer] = None
            continue
        block = replacements.get(key[:2])
        if block is not None and block is not slot.previous and not slot.hides:
            others[attention, layer] = block
    return others


class DiffusionModelWrapper:
    """Stands around each call of the UNet, where the host has a place for that.

    What the layers will read is brought to the device before it, never inside: a host may record
    what is allocated there as a graph. Our patches in the lists ``attn1_patch`` and ``attn2_patch``
    are to be the last of their lists: what they give has other tokens than others expect.

    Parameters
    ----------
    slots
        See :func:`find_others`.
    group
        What the slots share.
    """

    def __init__(
        self, slots: Iterable[tuple[str, tuple[Any, ...], int]], group: PatchedModel
    ) -> None:
        self._slots = tuple(slots)
        self._group = group

    def __call__(self, execute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the UNet with options that say what others do."""
        placed = len(args) > _OPTIONS_PLACE
        options = args[_OPTIONS_PLACE] if placed else kwargs.get("transformer_options")
        if options is not None:
            told = self._told(options)
            if placed:
                args = (*args[:_OPTIONS_PLACE], told, *args[_OPTIONS_PLACE + 1 :])
            else:
                kwargs["transformer_options"] = told
            if args:
                text = args[_TEXT_PLACE] if len(args) > _TEXT_PLACE else kwargs.get("context")
                self._group.prepare(args[0], text, told)
        return execute(*args, **kwargs)

    def _told(self, options: dict[str, Any]) -> dict[str, Any]:
        others = find_others(options, self._slots)
        if others:
            options = {**options, OTHERS: others}
        for name, patch_type in (("attn1_patch", Attn1Patch), ("attn2_patch", Attn2Patch)):
            inputs = options.get("patches", {}).get(name, ())
            ours = [isinstance(patch, patch_type) for patch in inputs]
            if any(ours[:-1]):
                ordered = sorted(inputs, key=lambda patch, ours=patch_type: isinstance(patch, ours))
                options = {**options, "patches": {**options["patches"], name: ordered}}
        return options

    def __deepcopy__(self, memo: dict[int, Any]) -> DiffusionModelWrapper:
        """Share all: it never changes."""
        return self
