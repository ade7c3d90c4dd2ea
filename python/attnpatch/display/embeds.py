# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image tokens: how many, of what, how long each is, and how alike pictures are."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from attnpatch.adapters import ImageEmbeds
from attnpatch.display.card import card, count, facts, part, short, size
from attnpatch.display.markup import Markup, tag
from attnpatch.display.style import colour
from attnpatch.display.svg import bars

__all__ = ["html"]

_PICTURES = 4
_METADATA = 24


def html(embeds: ImageEmbeds) -> Markup:
    """Show image tokens."""
    shape = f"{count(embeds.pictures, 'picture')}, {embeds.tokens} tokens of {embeds.context_dim}"
    nbytes = embeds.cond.nbytes + embeds.uncond.nbytes
    rest = [
        ("of", short(embeds.metadata.get("kind", "an unknown adapter"))),
        (
            "dtype, device",
            f"{str(embeds.cond.dtype).removeprefix('torch.')} on {embeds.cond.device}",
        ),
        ("uncond", f"{count(len(embeds.uncond), 'row')}"),
    ]
    shown = {"kind", "tokens", "pictures", "context_dim", "uncond"}
    rest += [
        (short(key.replace("_", " "), 40), value if len(value) <= 60 else f"{value[:12]}…")
        for key, value in [*embeds.metadata.items()][:_METADATA]
        if key not in shown
    ]
    body = part(
        tag("div", facts(rest), class_="ap-text"),
        tag("div", *_norms(embeds), _alike(embeds.cond), class_="ap-row"),
    )
    return card("ImageEmbeds", f"{shape}, {size(nbytes)}", body, plain=repr(embeds))


def _norms(embeds: ImageEmbeds) -> Iterator[Markup]:
    for index, tokens in enumerate(embeds.cond[:_PICTURES]):
        name = "cond" if embeds.pictures == 1 else f"picture {index}"
        yield _bars(tokens, f"lengths of tokens, {name}", colour(0))
    yield _bars(embeds.uncond[0], "lengths of tokens, uncond", colour(1))


def _bars(tokens: torch.Tensor, text: str, paint: str) -> Markup:
    lengths = tokens.detach().float().norm(dim=-1).tolist()
    return tag("figure", bars(lengths, paint, text), tag("figcaption", text))


def _alike(cond: torch.Tensor) -> Markup | None:
    """Tell how alike the first pictures' tokens are, in words: the cosine of all of them."""
    if len(cond) < 2:
        return None
    flat = F.normalize(cond[:_PICTURES].detach().float().flatten(1), dim=1)
    alike = (flat @ flat.T).tolist()
    pairs = [
        f"{a} and {b}: {alike[a][b]:.2f}" if math.isfinite(alike[a][b]) else f"{a} and {b}: none"
        for a in range(len(flat))
        for b in range(a + 1, len(flat))
    ]
    return tag("span", f"cosines of pictures: {', '.join(pairs)}", class_="ap-soft")
