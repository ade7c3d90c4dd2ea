# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Values of axes against what the nodes of the server declare of their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnpatch.studies.names import unknown_name

__all__ = ["Definitions", "check_value", "is_choice"]

Definitions = Mapping[str, Mapping[str, Any]]
"""By the class of a node what the server's ``/object_info`` says of it."""
_UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload")
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "INT": ((int,), "a whole number"),
    "FLOAT": ((int, float), "a number"),
    "STRING": ((str,), "a text"),
    "BOOLEAN": ((bool,), "true or false"),
}


def check_value(name: str, value: Any, class_type: str, key: str, known: Definitions) -> None:
    """Check a value for an input, as far as its node declares what it takes.

    Parameters
    ----------
    name
        The axis, for errors.
    value
        What it is to be.
    class_type, key
        The class of the node, and the input.
    known
        What nodes declare.

    Raises
    ------
    ValueError
        For a value of another type, out of range, or that is no choice; with the nearest choice.
    """
    declared = _declared(known.get(class_type, {}).get("input", {}), key)
    if not isinstance(value, str | int | float):
        raise ValueError(f"{name}: expected a text, a number, true or false, got {value!r}")
    if not declared:
        return  # inputs that nodes make as they need them
    kind = declared[0]
    options = declared[1] if len(declared) > 1 else {}
    if is_choice(known[class_type]["input"], key):
        options = options if kind == "COMBO" else {**options, "options": kind}
        _check_choice(name, value, options)
    elif kind in _KINDS:
        _check_kind(name, value, kind, options)
    elif kind == kind.upper() and kind.isidentifier():
        raise ValueError(f"{name}: expected an input with a widget, got one for a link to {kind}")


def is_choice(parts: Mapping[str, Mapping[str, Sequence[Any]]], key: str) -> bool:
    """Whether an input is a choice of a list, such as of files.

    Parameters
    ----------
    parts
        What a node declares: by "required" and "optional" its inputs.
    key
        The input.
    """
    declared = _declared(parts, key)
    if not declared:
        return False
    kind = declared[0]
    return kind == "COMBO" or (isinstance(kind, Sequence) and not isinstance(kind, str))


def _declared(parts: Mapping[str, Mapping[str, Sequence[Any]]], key: str) -> Sequence[Any] | None:
    there = (parts.get(part) or {} for part in ("required", "optional"))
    return next((inputs[key] for inputs in there if key in inputs), None)


def _check_choice(name: str, value: Any, options: Mapping[str, Any]) -> None:
    choices = options.get("options")
    # The server knows which files may be named beside those that the menu shows.
    if choices is None or any(options.get(upload) for upload in _UPLOADS):
        return
    if value not in choices:
        raise unknown_name(name, value, map(str, choices))


def _check_kind(name: str, value: Any, kind: str, options: Mapping[str, Any]) -> None:
    types, expected = _KINDS[kind]
    if not isinstance(value, types) or isinstance(value, bool) != (kind == "BOOLEAN"):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    low, high = options.get("min"), options.get("max")
    if kind in ("INT", "FLOAT") and (
        (low is not None and value < low) or (high is not None and value > high)
    ):
        raise ValueError(f"{name}: expected {low} to {high}, got {value}")
