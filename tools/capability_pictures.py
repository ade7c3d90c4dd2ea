# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Draw the pictures of what acts on words, regions, references and negative prompts.

Usage: ``python tools/capability_pictures.py [NAME …]``. The model is the one in the package, whose
"text" is four learned tokens for a kind of clothes; texts of two kinds are joined. References need
another one, which ``reference_model.py`` trains and keeps in ``build``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import reference_model
import torch
from PIL import Image

import attnpatch as ap
from attnpatch.demo.embedded import to_pictures
from attnpatch.demo.items import CLASS_NAMES
from attnpatch.demo.model import NULL_CLASS, TEXT_TOKENS, decode_latents
from attnpatch.demo.pipeline import FashionPipeline
from attnpatch.demo.sample import CLASS_GUIDANCE, make_noise, sample
from attnpatch.demo.sheet import Section, Tile, contact_sheet
from attnpatch.patches import KeyGain, ReferenceKeys, TextKeys

ROOT = Path(__file__).resolve().parent.parent
SEED, COUNT, COLOURS = 3, 3, 48
PAIRS = ("trousers", "bag"), ("pullover", "sneaker"), ("coat", "ankle boot")


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


def word_weights() -> tuple[Section, ...]:
    """One of two words, by its weight."""
    painter = Painter()
    one, other = "trousers", "bag"
    text = painter.text(one, other)
    second = TextKeys(range(TEXT_TOKENS, 2 * TEXT_TOKENS))
    weights = [
        painter.paint(text, [KeyGain(second, gain)], f"{other}: {gain:g}")
        for gain in (0.0, 0.3, 1.0, 3.0, 10.0)
    ]
    told = f"The prompt is “{one} {other}”; attention to the second word is multiplied."
    return (Section("Words with weights", told, _rows(weights)),)


def regions() -> tuple[Section, ...]:
    """Two texts, everywhere and in their halves."""
    painter = Painter()
    told = "Two texts, each seen in its own half alone; twice as wide as the model was trained for."
    return (Section("Prompts of regions", told, tuple(_halves(painter, *pair) for pair in PAIRS)),)


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


def references() -> tuple[Section, ...]:
    """Two references, by how much the model looks at the second, and at each in a half."""
    model = reference_model.trained(ROOT / "build" / "reference_model.pt")
    generator = torch.Generator().manual_seed(7)
    shapes = torch.tensor(
        [reference_model.SHAPES.index(name) for name in ("disc", "cross", "square")]
    )
    noise = torch.randn(len(reference_model.SHAPES), 3, 16, 16, generator=generator)[shapes]
    colours = torch.tensor([[1.0, -0.6, -0.6], [-0.6, -0.3, 1.0]])
    given = [
        reference_model.draw(torch.tensor([kind] * 3), colour.expand(3, -1), generator)
        for kind, colour in zip((1, 0), colours, strict=True)
    ]

    def painted(patches: Sequence[ap.Patch], caption: str) -> list[Tile]:
        with ap.attach(model.transformer, patches, cond_or_uncond=(0,)):
            pictures = reference_model.sample(model, noise, shapes, given)
        return [Tile(_coloured(picture), caption) for picture in pictures]

    right = torch.tensor([[0.0, 1.0]])
    halves = [
        KeyGain(ReferenceKeys(index), outside=0.0, mask=mask)
        for index, mask in enumerate((1 - right, right))
    ]
    columns = [
        [Tile(_coloured(picture), f"reference {index}", "", True) for picture in pictures]
        for index, pictures in enumerate(given)
    ]
    columns += [
        painted([ap.reference_strength(strength, 1)], f"strength {strength:g}")
        for strength in (0.0, 0.3, 1.0, 3.0, 10.0)
    ]
    columns.append(painted(halves, "half each"))
    told = (
        "The text says the shape, the references its colour; the strength is that of the second. "
        "A small transformer of Flux's architecture."
    )
    return (Section("Strength of references", told, _rows(columns)),)


def _coloured(picture: torch.Tensor) -> Image.Image:
    values = ((picture + 1) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def normalized_attention() -> tuple[Section, ...]:
    """Away from one of two words, by NAG's scale."""
    painter = Painter()
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


SHEETS = {
    "word-weights": ("Gains on words", word_weights),
    "regions": ("Gains on texts of regions", regions),
    "references": ("Gains on references", references),
    "normalized-attention": ("Normalized attention guidance", normalized_attention),
}


def main(names: Sequence[str]) -> None:
    """Write the pictures of these names, or all."""
    for name in names or SHEETS:
        title, make = SHEETS[name]
        model = "a small model" if name == "references" else "the small model in the package"
        subtitle = f"attnpatch, with {model}; each row starts from one noise"
        sheet = contact_sheet(title, subtitle, make()).quantize(COLOURS)
        path = ROOT / "docs" / f"{name}.png"
        sheet.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
