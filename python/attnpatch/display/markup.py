# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pieces of HTML and SVG. What is not markup already is escaped, so that no text can become any."""

from __future__ import annotations

import re
from html import escape

__all__ = ["Markup", "join", "tag"]

_VOID = frozenset({"br", "hr", "img"})
# What neither HTML nor XML can hold, and halves of pairs, which no encoding can.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


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
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def _piece(child: object) -> str:
    if child is None:
        return ""
    return child if isinstance(child, Markup) else _escaped(child)


def _escaped(value: object) -> str:
    return escape(_UNFIT.sub("\ufffd", str(value)))
