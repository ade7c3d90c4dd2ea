# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An adapter: what it takes, what becomes of that, and for which layers."""

from __future__ import annotations

from attnpatch.adapters import ImageAdapter
from attnpatch.adapters.describe import MODELS, STRUCTURES
from attnpatch.display.card import card, count, facts, part, size
from attnpatch.display.markup import Markup, tag
from attnpatch.display.style import colour
from attnpatch.display.svg import bars

__all__ = ["html"]


def html(adapter: ImageAdapter) -> Markup:
    """Show an adapter as the way from a picture to keys and values."""
    layout = adapter.layout
    parts = adapter.state_dict()
    weights = [tensor for group in parts.values() for tensor in group.values()]
    stations = [
        " and ".join(map(str, layout.takes)),
        STRUCTURES[layout.structure],
        f"{layout.tokens} tokens of {layout.token_dim}",
    ]
    if layout.token_dim != layout.context_dim:
        stations.append(f"the model's own projection to {layout.context_dim}")
    stations.append(f"keys and values of {count(adapter.site_count, 'layer')}")
    chain = []
    for index, station in enumerate(stations):
        chain += [tag("span", "→", class_="ap-soft")] if index else []
        chain.append(tag("span", station, class_="ap-box"))
    known = [
        ("model", MODELS[layout.family]),
        ("dtype, device", f"{str(adapter.dtype).removeprefix('torch.')} on {adapter.device}"),
        ("digest", f"{adapter.digest[:12]}…"),
    ]
    if layout.note:
        known.insert(0, ("why", layout.note))
    if adapter.lora:
        known.append(("LoRA", f"{count(len(adapter.lora), 'tensor')}, for you to apply"))
    text = "channels of the layers, in checkpoint order"
    drawing = bars([float(c) for c in adapter.channels], colour(0), text)
    body = part(
        tag("div", facts(known), class_="ap-text"),
        tag("figure", drawing, tag("figcaption", text)),
    )
    kind = f"{layout.kind}, {size(sum(t.nbytes for t in weights))}"
    route = tag("div", *chain, class_="ap-chain")
    return card("ImageAdapter", kind, route, body, plain=repr(adapter))
