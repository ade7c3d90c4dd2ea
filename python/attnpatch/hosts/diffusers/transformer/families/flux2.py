# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Flux.2 and Klein: [text; image; references], or references first and kept from the first step."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from attnpatch.engine import IMAGE, REFERENCE, TEXT, JointTable, Part, joined
from attnpatch.hosts.diffusers.transformer.sequence import Sequenced, joint_table, parts_of_ids

__all__ = ["Flux2"]


class Flux2:
    """Double blocks, and single ones that attend and feed forward at once."""

    spans = (TEXT, IMAGE, REFERENCE)
    text_masks: tuple[str, ...] = ()

    def __init__(self) -> None:
        # The references whose keys and values a cache holds, and those that were kept last.
        self._cached: WeakKeyDictionary[Any, tuple[Part, ...]] = WeakKeyDictionary()
        self._latest = threading.local()

    def layer_table(self, model: Any) -> JointTable:
        """Return its layers of joint attention, in forward order."""
        return joint_table(
            model, {"transformer_blocks.attn": "double", "single_transformer_blocks.attn": "single"}
        )

    def sequence(self, model: Any, arguments: Mapping[str, Any]) -> Sequenced:
        """Return the sequence of a call; see ``Family``.

        With a cache of references these attend to themselves alone, in the first call; all else
        attends to [text; references; image].
        """
        text = arguments["encoder_hidden_states"]
        words: Part = (TEXT, text.shape[1], None)
        pictures = parts_of_ids(arguments["img_ids"])
        queries = keys = joined([words, *pictures])
        mode = arguments.get("kv_cache_mode")
        if mode is not None:
            images = [part for part in pictures if part[0] == IMAGE]
            references = self._references(mode, pictures, arguments)
            queries, keys = joined([words, *images]), joined([words, *references, *images])
        return Sequenced(
            batch=len(arguments["hidden_states"]),
            attentions=((queries, keys),),
            sigma=arguments["timestep"],
            text=text,
        )

    def _references(
        self, mode: str, pictures: tuple[Part, ...], arguments: Mapping[str, Any]
    ) -> tuple[Part, ...]:
        cache = arguments.get("kv_cache")
        if mode == "extract":
            references = tuple(part for part in pictures if part[0] == REFERENCE)
            self._latest.references = references
            if cache is not None:
                self._cached[cache] = references
            return references
        known = self._cached.get(cache)
        if known is None:  # the model makes a cache where it is given none
            known = getattr(self._latest, "references", ())
            self._cached[cache] = known
        if sum(count for _, count, _ in known) != cache.num_ref_tokens:
            raise ValueError(
                f"kv_cache: expected the references of the call that filled it, got one of "
                f"{cache.num_ref_tokens} tokens that was filled without patches"
            )
        return known
