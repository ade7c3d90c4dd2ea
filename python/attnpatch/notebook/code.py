# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The Python that makes the pictures of a cell, as one would write it by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from attnpatch.engine import Patch, Weight
from attnpatch.notebook.variant import Box, Change, Drawn, Value, changed_patch
from attnpatch.notebook.writing import Writer
from attnpatch.patches import ImagePrompt

__all__ = ["Call", "Origin", "as_code"]

Call = Callable[[Writer, str], str]
"""Writes the call that makes pictures, of the pipeline of a name."""


@dataclass(frozen=True)
class Origin:
    """What a cell was made of.

    Parameters
    ----------
    pipeline
        As it was given.
    patches
        As they were given: one, a sequence, or None where the attached ones were taken.
    stack : sequence of Patch
        What these are.
    names : mapping of int to str
        Of `names_in`.
    attached : bool
        Whether the pipeline had patches of its own, which the cell leaves out.
    """

    pipeline: object
    patches: Patch | Sequence[Patch] | None
    stack: Sequence[Patch]
    names: Mapping[int, str]
    attached: bool = False


def as_code(origin: Origin, changes: Sequence[Change], call: Call) -> str:
    """Write a program that makes the changed stack, and the pictures with it.

    It names what it takes from where the cell was made. What has no name there, and cannot be
    written, is a line ``name = ...  # fill in: …`` at its head.
    """
    writer = Writer(origin.names)
    writer.bring("ap")
    pipeline = writer.name(origin.pipeline, "pipeline")
    patches = [
        f"        {_patch(writer, origin, place, change)},"
        for place, change in enumerate(changes)
        if change.on
    ]
    stack = ["    [", *patches, "    ]"] if patches else ["    []"]
    text = call(writer, pipeline)
    explored, images, patched = map(writer.free, ("explored", "images", "patched"))
    body = [f"{explored} = ap.PatchStack(", *stack, ")"]
    if origin.attached:
        body += [
            f"{patched} = ap.patch_model({pipeline}, ())  # so that {pipeline} stays as it is",
            f"ap.attach({patched}, {explored}, replace=True)",
            f"{images} = {call(writer, patched)}",
        ]
    else:
        body += [f"with ap.attach({pipeline}, {explored}):", f"    {images} = {text}"]
    return "\n".join([*_head(writer), "", *body])


def _patch(writer: Writer, origin: Origin, place: int, change: Change) -> str:
    """Write a changed patch: in full, or as what becomes of the one that was given."""
    patch = origin.stack[place]
    written = writer.literal(changed_patch(patch, change.values))
    if written is not None:
        return written
    base = writer.literal(patch) or _given(writer, origin, place)
    if not change.values:
        return base
    parts = ", ".join(
        f"{name}={_value(writer, patch, name, value)}" for name, value in change.values.items()
    )
    if isinstance(patch, ImagePrompt):
        return f"{base}.replace({parts})"
    writer.bring("replace")
    return f"replace({base}, {parts})"


def _given(writer: Writer, origin: Origin, place: int) -> str:
    """Say where a patch that cannot be written is found."""
    known = writer.known(origin.stack[place])
    if known is not None:
        return known
    if origin.patches is None:
        return f"ap.attached({writer.name(origin.pipeline, 'pipeline')})[{place}]"
    if not isinstance(origin.patches, Patch):
        known = writer.known(origin.patches)
    if known is None:
        known = "stack"
        writer.missing[known] = "the patches that were given to explore, in their order"
    return f"{known}[{place}]"


def _value(writer: Writer, patch: Patch, name: str, value: Value) -> str:
    if isinstance(value, Box | Drawn):
        maker = "box_mask" if isinstance(value, Box) else "drawn_mask"
        writer.bring(maker)
        return repr(value)
    before = getattr(patch, name)
    if isinstance(before, Weight) and before != Weight(before.scale):
        return writer.write(getattr(changed_patch(patch, {name: value}), name), name)
    return writer.write(value, name)


def _head(writer: Writer) -> list[str]:
    """Write what is imported, what is taken, and what is to be filled in."""
    lines = writer.imports
    if writer.used:
        lines += ["", f"# As they were where explore was called: {', '.join(sorted(writer.used))}"]
    missing = [f"{name} = ...  # fill in: {what}" for name, what in writer.missing.items()]
    return [*lines, "", *missing] if missing else lines
