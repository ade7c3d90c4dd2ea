# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/gallery.md and its pictures: what the playground gives for the settings below.

Usage: gallery.py
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from attnpatch.playground.compare import Playground
from attnpatch.playground.patches import make_patches
from attnpatch.playground.settings import PromptSettings, Settings
from attnpatch.playground.small_model import SmallModel

DOCS = Path(__file__).parents[1] / "docs"
_HEAD = """# Gallery

<!-- Written by tools/gallery.py. -->

What patches do to the small model in the package, which draws clothes of 32 × 32 pixels. In each
picture: above, the references, which the model never saw; in the middle, what it draws without
patches, of any class; below, with them. All start from the same noise, with 10 steps. `model` is
`attnpatch.playground.small_model.SmallModel()`; [the playground](playground.md) shows all of this
with pictures of yours.
"""
_MASK = """\
`mask(file)` is `attnpatch.playground.settings.to_mask(Image.open(file))`: a tensor (H, W) of a grey
picture of any size, 1 where it is white and the prompt acts, 0 where it is black.
"""
_EDGE, _GAP = 96, 6


@dataclass(frozen=True)
class Entry:
    """A picture of the gallery: image prompts, by the place of their reference, and the rest."""

    name: str
    title: str
    prompts: tuple[dict[str, Any], ...]
    rest: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def half(side: str) -> Image.Image:
    """Make a mask that is white on the "left" or the "right"."""
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32) if side == "left" else (16, 0, 32, 32))
    return mask


ENTRIES = (
    Entry("weight", "An image prompt", ({"weight": 1.0},)),
    Entry("gentle", "A gentle one", ({"weight": 0.25},)),
    Entry("window", "In the first fifth of sampling alone", ({"weight": 1.0, "end": 0.2},)),
    Entry("late", "From the middle of sampling on", ({"weight": 1.0, "start": 0.5},)),
    Entry("layers", "Weaker towards the last layers", ({"weight": 1.0, "layers": "ease in"},)),
    Entry("mask", "On the left half", ({"weight": 1.0, "mask": half("left")},), note=_MASK),
    Entry(
        "halves",
        "A reference on each half",
        ({"weight": 1.0, "mask": half("left")}, {"weight": 1.0, "mask": half("right")}),
    ),
    Entry("class", "Beside a class, “bag”", ({"weight": 0.5},), {"text": "bag", "guidance": 1.5}),
    Entry("sag", "Self-attention guidance", ({"weight": 1.0},), {"sag": 2.0}),
    Entry("pag", "Perturbed-attention guidance", ({"weight": 1.0},), {"pag": 2.0}),
    Entry("merging", "Half of the tokens", ({"weight": 1.0},), {"reduction": "merging 0.5"}),
    Entry(
        "slothful", "A ninth of keys and values", ({"weight": 1.0},), {"reduction": "Slothful 9"}
    ),
)


def settings_of(entry: Entry, place: int, references: list[Image.Image], model: Any) -> Settings:
    """Make the settings of one column: the n-th prompt has the n-th reference after its own."""
    prompts = tuple(
        PromptSettings(references[(place + number) % len(references)].convert("RGB"), **options)
        for number, options in enumerate(entry.prompts)
    )
    return replace(model.defaults, prompts=prompts, **entry.rest)


def draw(entry: Entry, playground: Playground) -> Image.Image:
    """Draw the references, the plain pictures and the patched ones, a row each."""
    references = playground.model.examples()
    sheet = Image.new("L", (len(references) * (_EDGE + _GAP), 3 * (_EDGE + _GAP)), 90)
    for place, reference in enumerate(references):
        settings = settings_of(entry, place, references, playground.model)
        *_, result = playground.run(settings)
        column = (reference, result.plain.picture, result.patched.picture)
        for row, picture in enumerate(column):
            shown = picture.resize((_EDGE, _EDGE), Image.Resampling.NEAREST)
            at = (_GAP // 2 + place * (_EDGE + _GAP), _GAP // 2 + row * (_EDGE + _GAP))
            sheet.paste(shown, at)
    return sheet


def write(model: SmallModel) -> str:
    """Write the page, without drawing."""
    references = model.examples()
    parts = [_HEAD]
    for entry in ENTRIES:
        settings = settings_of(entry, 0, references, model)
        code = "\n".join(code for _, code in make_patches(model, settings))
        parts.append(
            f"## {entry.title}\n```python\n{code}\n```\n{entry.note}\n"
            f"![Three rows: references, without and with patches](gallery/{entry.name}.png)\n"
        )
    return "\n".join(parts)


def main() -> None:
    """Write the page and its pictures."""
    playground = Playground(SmallModel())
    (DOCS / "gallery").mkdir(exist_ok=True)
    for entry in ENTRIES:
        draw(entry, playground).save(DOCS / "gallery" / f"{entry.name}.png", optimize=True)
    (DOCS / "gallery.md").write_text(write(playground.model), encoding="utf-8")


if __name__ == "__main__":
    main()
