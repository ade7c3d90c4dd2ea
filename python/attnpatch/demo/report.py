# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""The demo's report: contact sheet, table, and whether the image prompt had an effect."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from PIL import Image

from attnpatch.demo.runner import Model, Outcome, change
from attnpatch.demo.sheet import Section, Tile, contact_sheet
from attnpatch.demo.table import format_table
from attnpatch.patches.guidance.heat_map import show_attention

# Below these, a picture counts as the same one.
LEAST_CHANGE = 1.0 / 255.0
LEAST_GAIN = 0.01


def had_effect(outcomes: Sequence[Outcome]) -> bool:
    """Whether a plain image prompt changed the pictures, and brought them nearer the references."""
    prompted = [o for o in outcomes if o.variant.patched and o.variant.group == "weight"]
    return any(sum(o.change) / 2.0 > LEAST_CHANGE and o.moved > LEAST_GAIN for o in prompted)


def make_table(outcomes: Sequence[Outcome]) -> str:
    """Format a line per variant."""
    judged = any(o.share_right is not None for o in outcomes)
    head = ["variant", "similarity", "without", "moved"]
    head += ["change left", "right"] + (["same class"] if judged else [])
    rows = []
    for outcome in outcomes:
        row = [
            _title(outcome),
            f"{fmean(outcome.similarity):.2f}",
            f"{fmean(outcome.plain_similarity):.2f}",
            f"{outcome.moved:+.2f}",
            f"{outcome.change[0]:.0%}",
            f"{outcome.change[1]:.0%}",
        ]
        if judged:
            share = outcome.share_right
            row.append("" if share is None else f"{share:.0%}")
        rows.append(row)
    return format_table(head, rows)


def make_sheet(
    model: Model, outcomes: Sequence[Outcome], title: str, subtitle: str, names: Sequence[str]
) -> Image.Image:
    """Draw the sheet: weights, windows, guidance, tokens, masks, one row per reference."""
    plain = outcomes[0]
    groups = {
        group: [o for o in outcomes if o.variant.group == group]
        for group in ("weight", "window", "guidance", "tokens", "mask")
    }
    rows = range(len(model.references))

    def reference(row: int, pictures: list[Image.Image], caption: str) -> Tile:
        return Tile(pictures[row], names[row % len(names)], caption, reference=True)

    sections = [
        Section(
            "Weight",
            "How strongly the image prompt speaks. Every picture starts from the same noise.",
            tuple(
                (
                    reference(row, model.references, "reference"),
                    *(_tile(o, row) for o in groups["weight"]),
                )
                for row in rows
            ),
        ),
        Section(
            "Window",
            "Active in a part of sampling only: early steps set the shape, late ones the surface.",
            tuple(
                (
                    reference(row, model.references, "reference"),
                    Tile(plain.pictures[row], plain.variant.name),
                    *(_tile(o, row) for o in groups["window"]),
                )
                for row in rows[:2]
            ),
        ),
    ]
    guided = groups["guidance"]
    if guided:
        base = next(o for o in groups["weight"] if o.variant.weight == guided[0].variant.weight)
        sections.append(
            Section(
                "Self-attention guidance",
                "Away from a picture that is blurred where the model looks, at several scales.",
                tuple(
                    (
                        reference(row, model.references, "reference"),
                        _tile(base, row),
                        *_attention_tiles(guided[0], row),
                        *(_tile(o, row) for o in guided),
                    )
                    for row in rows[:2]
                ),
            )
        )
    reduced = groups["tokens"]
    if reduced:
        base = next(o for o in groups["weight"] if o.variant.weight == reduced[0].variant.weight)
        sections.append(
            Section(
                "Fewer tokens",
                "Self-attention to fewer tokens: less work, and the picture should stay as it is.",
                tuple(
                    (
                        reference(row, model.references, "reference"),
                        Tile(base.pictures[row], "all tokens", base.variant.name),
                        *(_compared(o, base, row) for o in reduced),
                    )
                    for row in rows[:2]
                ),
            )
        )
    if groups["mask"]:
        partner_names = [names[(row + 1) % len(names)] for row in rows]
        sections.append(
            Section(
                "Mask",
                "One reference on the left half, another on the right half, or both at once.",
                tuple(
                    (
                        reference(row, model.references, "left reference"),
                        Tile(model.partners[row], partner_names[row], "right reference", True),
                        Tile(plain.pictures[row], plain.variant.name),
                        *(_tile(o, row) for o in groups["mask"]),
                    )
                    for row in rows[:3]
                ),
            )
        )
    return contact_sheet(title, subtitle, tuple(sections))


def _tile(outcome: Outcome, row: int) -> Tile:
    return Tile(
        outcome.pictures[row], outcome.variant.name, f"similarity {outcome.similarity[row]:.2f}"
    )


def _compared(outcome: Outcome, base: Outcome, row: int) -> Tile:
    """Draw a picture, and say how far it is from that of `base`."""
    off = sum(change([outcome.pictures[row]], [base.pictures[row]])) / 2.0
    return Tile(outcome.pictures[row], outcome.variant.name, f"{off:.1%} off")


def _attention_tiles(outcome: Outcome, row: int) -> tuple[Tile, ...]:
    """Draw where the model looked in the last step, and what of that was blurred."""
    if outcome.attention is None:
        return ()
    picture, name = outcome.pictures[row], outcome.variant.name
    factor = -(-256 // picture.width)
    large = picture.resize(
        (factor * picture.width, factor * picture.height), Image.Resampling.NEAREST
    )
    attention = outcome.attention[row]
    heat = show_attention(attention, picture=large)
    mask = show_attention(attention, picture=large, threshold=1.0)
    return Tile(heat, "attention", name), Tile(mask, "what is blurred", name)


def _title(outcome: Outcome) -> str:
    group, name = outcome.variant.group, outcome.variant.name
    return name if group == "weight" else f"{group} {name}"
