# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The error for a name that nothing has, with the nearest one that there is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["unknown_name"]

_SHOWN = 60


def unknown_name(where: str, name: object, known: Iterable[str]) -> ValueError:
    """Return an error that names the nearest of the known names, and all of them, or the first."""
    names = sorted(known)
    shown = ", ".join(names[:_SHOWN])
    if len(names) > _SHOWN:
        shown += f" and {len(names) - _SHOWN} more"
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{where}: expected one of {shown}, got {name!r}{meant}")
