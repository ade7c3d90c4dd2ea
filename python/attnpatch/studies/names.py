# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The error for a name that nothing has, with the nearest one that there is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterable

__all__ = ["folder_name", "under", "unknown_name"]

_SHOWN = 60
_FIRST_WORD = re.compile(r"([a-z_]+)[^:]*:")
_NO_FOLDER = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]|^\.*$|^~')


def folder_name(name: str, otherwise: str) -> str:
    """Return a study's name as that of a folder, on every system.

    Raises
    ------
    ValueError
        Where it is none; `otherwise` is what to do then.
    """
    if _NO_FOLDER.search(name):
        raise ValueError(f"name: expected one that a folder may have, got {name!r}; {otherwise}")
    return name


def under(where: str, error: Exception, options: Container[str] = ()) -> Exception:
    """Return an error with what it is of before it: "style.weight: …", or "style: …".

    Parameters
    ----------
    where
        A patch, or an option.
    error
        Any; kinds that users cannot mend stay as they are.
    options
        What `where` has, where the error's text may begin with the name of one.
    """
    kind = next(
        (kind for kind in (OSError, TypeError, ValueError) if isinstance(error, kind)), None
    )
    if kind is None:
        return error
    text = str(error)
    first = _FIRST_WORD.match(text)
    named = first is not None and first[1] in options
    return kind(f"{where}.{text}" if named else f"{where}: {text}")


def unknown_name(where: str, name: object, known: Iterable[str]) -> ValueError:
    """Return an error that names the nearest of the known names, and all of them, or the first."""
    names = sorted(known)
    shown = ", ".join(name or "''" for name in names[:_SHOWN])
    if len(names) > _SHOWN:
        shown += f" and {len(names) - _SHOWN} more"
    near = _nearest(str(name), names)
    meant = f"; did you mean {near!r}?" if near else ""
    return ValueError(f"{where}: expected one of {shown}, got {name!r}{meant}")


def _nearest(name: str, known: list[str]) -> str | None:
    """Return the name that is meant: by its initials ("SAG"), or nearly spelled so."""
    for one in known:
        initials = "".join(letter for letter in one if letter.isupper())
        if len(initials) > 1 and initials.casefold() == name.casefold():
            return one
    spelled = {one.casefold(): one for one in reversed(known)}
    near = difflib.get_close_matches(name.casefold(), spelled, n=1, cutoff=0.5)
    return spelled[near[0]] if near else None
