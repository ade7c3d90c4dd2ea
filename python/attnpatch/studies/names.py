# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The error for a name that nothing has, with the nearest one that there is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["folder_name", "unknown_name"]

_SHOWN = 60
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


def unknown_name(where: str, name: object, known: Iterable[str]) -> ValueError:
    """Return an error that names the nearest of the known names, and all of them, or the first."""
    names = sorted(known)
    shown = ", ".join(names[:_SHOWN])
    if len(names) > _SHOWN:
        shown += f" and {len(names) - _SHOWN} more"
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{where}: expected one of {shown}, got {name!r}{meant}")
