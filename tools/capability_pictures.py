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


class Painter:
    """Pictures of the model in the package, all of them from the same noise."""

    def __init__(self) -> None:
        self.pipeline = FashionPipeline.shipped()
        self.noise = make_noise(COUNT, SEED)

    def text(self, *names: str) -> torch.Tensor:
        """Return the texts of kinds of clothes joined, (1, tokens, channels)."""
        with torch.no_grad():
            kinds = torch.tensor([CLASS_NAMES.index(name) for name in names])
            return self.pipeline.text(kinds).flatten(0, 1)[None]

    def paint(
        self, text: torch.Tensor, patches: Sequence[ap.Patch], caption: str, note: str = ""
    ) -> list[Tile]:
        """Return the pictures of a text with patches, one for each noise."""
        unet = self.pipeline.unet
        with torch.no_grad():
            nothing = self.pipeline.text(torch.tensor([NULL_CLASS]))
        rest = nothing.repeat(1, text.shape[1] // TEXT_TOKENS, 1)
        both = torch.cat([rest.expand(COUNT, -1, -1), text.expand(COUNT, -1, -1)])
        with ap.attach(unet, patches, cond_or_uncond=(1, 0)):
            latents = sample(
                lambda noisy, timestep: unet(noisy, timestep, both, return_dict=False)[0],
                self.noise,
                CLASS_GUIDANCE,
            )
        return [Tile(picture, caption, note) for picture in to_pictures(decode_latents(latents))]


def _rows(columns: Sequence[list[Tile]]) -> tuple[tuple[Tile, ...], ...]:
    return tuple(zip(*columns, strict=True))


def key_gains(painter: Painter) -> tuple[Section, ...]:
    """Words with weights. The model draws one thing alone: prompts of regions can not be shown."""
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
