# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Draw the pictures of docs/key-gains.md and docs/normalized-attention-guidance.md.

Usage: ``python tools/capability_pictures.py``. The model is the one in the package, whose "text" is
four learned tokens for a kind of clothes; texts of two kinds are joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

import attnpatch as ap
from attnpatch.demo.embedded import to_pictures
from attnpatch.demo.items import CLASS_NAMES
from attnpatch.demo.model import NULL_CLASS, TEXT_TOKENS, decode_latents
from attnpatch.demo.pipeline import FashionPipeline
from attnpatch.demo.sample import CLASS_GUIDANCE, make_noise, sample
from attnpatch.demo.sheet import Section, Tile, contact_sheet
from attnpatch.patches import KeyGain, TextKeys

DOCS = Path(__file__).resolve().parent.parent / "docs"
SEED, COUNT, COLOURS = 3, 3, 32
PAIRS = ("trousers", "bag"), ("pullover", "ankle boot"), ("dress", "sneaker")


class Painter:
    """Pictures of the model in the package, all of them from the same noise."""

    def __init__(self) -> None:
        self.pipeline = FashionPipeline.shipped()
        self.noise = make_noise(COUNT, SEED)
        self.wide = torch.cat([make_noise(2, 21), make_noise(2, 31)], dim=3)

    def text(self, *names: str) -> torch.Tensor:
        """Return the texts of kinds of clothes joined, (1, tokens, channels)."""
        with torch.no_grad():
            kinds = torch.tensor([CLASS_NAMES.index(name) for name in names])
            return self.pipeline.text(kinds).flatten(0, 1)[None]

    def paint(
        self, text: torch.Tensor, patches: Sequence[ap.Patch], caption: str, note: str = ""
    ) -> list[Tile]:
        """Return the pictures of a text with patches, one for each noise."""
        pictures = to_pictures(self._sample(self.noise, text, patches))
        return [Tile(picture, caption, note) for picture in pictures]

    def paint_wide(self, text: torch.Tensor, patches: Sequence[ap.Patch], caption: str) -> Tile:
        """Return two pictures twice as wide, one above the other."""
        pixels = self._sample(self.wide, text, patches)
        (picture,) = to_pictures(torch.cat(list(pixels), dim=1)[None])
        return Tile(picture, caption)

    def _sample(
        self, noise: torch.Tensor, text: torch.Tensor, patches: Sequence[ap.Patch]
    ) -> torch.Tensor:
        unet, count = self.pipeline.unet, len(noise)
        with torch.no_grad():
            nothing = self.pipeline.text(torch.tensor([NULL_CLASS]))
        rest = nothing.repeat(1, text.shape[1] // TEXT_TOKENS, 1)
        both = torch.cat([rest.expand(count, -1, -1), text.expand(count, -1, -1)])
        with ap.attach(unet, patches, cond_or_uncond=(1, 0)):
            latents = sample(
                lambda noisy, timestep: unet(noisy, timestep, both, return_dict=False)[0],
                noise,
                CLASS_GUIDANCE,
            )
        return decode_latents(latents)


def _rows(columns: Sequence[list[Tile]]) -> tuple[tuple[Tile, ...], ...]:
    return tuple(zip(*columns, strict=True))


def key_gains(painter: Painter) -> tuple[Section, ...]:
    """Words with weights, and prompts of regions."""
    one, other = "trousers", "bag"
    text = painter.text(one, other)
    second = TextKeys(range(TEXT_TOKENS, 2 * TEXT_TOKENS))
    weights = [
        painter.paint(text, [KeyGain(second, gain)], f"{other}: {gain:g}")
        for gain in (0.0, 0.3, 1.0, 3.0, 10.0)
    ]
    return (
        Section(
            "Words with weights",
            f"The prompt is “{one} {other}”; attention to the second word is multiplied.",
            _rows(weights),
        ),
        Section(
            "Prompts of regions",
            "Two texts, each seen in its own half alone, and pictures twice as wide as the model "
            "was trained for.",
            tuple(_halves(painter, one, other) for one, other in PAIRS),
        ),
    )


def _halves(painter: Painter, one: str, other: str) -> tuple[Tile, ...]:
    """Two kinds of clothes everywhere, side by side, the other way round, and for a while."""
    left = torch.zeros(1, 2)
    left[:, 0] = 1
    texts = painter.text(one), painter.text(other)

    def joined(*masks: torch.Tensor, **options: float) -> tuple[torch.Tensor, Sequence[ap.Patch]]:
        return ap.regional_prompts(list(zip(texts, masks, strict=True)), **options)

    text, patches = joined(left, 1 - left)
    return (
        painter.paint_wide(text, (), "no regions"),
        painter.paint_wide(text, patches, f"{one} | {other}"),
        painter.paint_wide(*joined(1 - left, left), f"{other} | {one}"),
        painter.paint_wide(*joined(left, 1 - left, end=0.3), "until 30 %"),
        painter.paint_wide(*joined(left, 1 - left, end=0.1), "until 10 %"),
    )


def normalized_attention(painter: Painter) -> tuple[Section, ...]:
    """Away from one of two words, by NAG's scale."""
    one, other = "pullover", "bag"
    text, negative = painter.text(one, other), painter.text(other)
    columns = [
        painter.paint(
            text,
            [ap.NormalizedAttentionGuidance(negative, scale, alpha=1.0)],
            "plain" if scale == 1 else f"scale {scale:g}",
        )
        for scale in (1.0, 1.5, 2.0, 3.0, 5.0)
    ]
    return (
        Section(
            "A negative prompt within attention",
            f"The prompt is “{one} {other}”, the negative “{other}”; tau 2.5, alpha 1.",
            _rows(columns),
        ),
    )


def main() -> None:
    """Write both pictures."""
    painter = Painter()
    subtitle = "attnpatch, with the small model in the package; each row starts from one noise"
    for name, title, sections in (
        ("key-gains", "Gains on keys", key_gains(painter)),
        ("normalized-attention", "Normalized attention guidance", normalized_attention(painter)),
    ):
        sheet = contact_sheet(title, subtitle, sections).quantize(COLOURS)
        path = DOCS / f"{name}.png"
        sheet.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
