# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Values that notebooks show as more than text."""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar

__all__ = ["Shown"]


class Shown:
    """A value with a display: HTML that stands by itself, in ``attnpatch.display``."""

    __slots__ = ()
    _shown_by: ClassVar[str]
    """The module of ``attnpatch.display`` that shows it; imported when it is asked for."""

    def _repr_html_(self) -> str:
        return str(import_module(f"attnpatch.display.{self._shown_by}").html(self))
