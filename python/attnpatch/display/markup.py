# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pieces of HTML and SVG. What is not markup already is escaped, so that no text can become any."""

from __future__ import annotations

from html import escape

__all__ = ["Markup", "join", "tag"]

_VOID = frozenset({"br", "hr", "img"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def join(*children: object) -> Markup:
    """Put pieces one after the other; None is nothing, other values are escaped."""
    return Markup("".join(map(_piece, children)))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Make an element.

    Parameters
    ----------
    name : str
        Of the element.
    *children
        What stands in it: markup as it is, other values as escaped text, None as nothing.
    **attributes
        Their values are escaped; None leaves one out. An underscore at the end of a name goes, the
        others become hyphens: ``class_``, ``aria_label``.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def _piece(child: object) -> str:
    if child is None:
        return ""
    return child if isinstance(child, Markup) else escape(str(child))
