# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Values as Python: written out, or by the names that they have where a cell was made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import PurePath
from types import FrameType, ModuleType

import torch

from attnpatch.engine import Weight

__all__ = ["Writer", "names_in"]

_ALWAYS = ("weight", "scale", "gain")  # are written, the default too
_PLAIN = (bool, int, str, bytes, type(None))
# What code may import, by the names that it has there.
_IMPORTS = {
    "Path": "from pathlib import Path",
    "replace": "from dataclasses import replace",
    "torch": "import torch",
    "ap": "import attnpatch as ap",
    "box_mask": "from attnpatch.notebook import box_mask",
    "drawn_mask": "from attnpatch.notebook import drawn_mask",
}


def names_in(frame: FrameType | None) -> dict[int, str]:
    """Give the variables that code in a frame sees: the identity of each value, and its name.

    Those that have the name of an import of ours are left out, as they would be lost by it.
    """
    if frame is None:
        return {}
    seen = {**frame.f_globals, **frame.f_locals}
    return {
        id(value): name
        for name, value in seen.items()
        if not name.startswith("_") and name not in _IMPORTS and not isinstance(value, ModuleType)
    }


class Writer:
    """Writes values as Python, and keeps what that needs.

    Parameters
    ----------
    names : mapping of int to str
        Of `names_in`.

    Attributes
    ----------
    used : set of str
        Names that are known.
    missing : dict
        Names that somebody has to give a value to, each with what that is.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._imports: set[str] = set()
        self.used: set[str] = set()
        self.missing: dict[str, str] = {}

    @property
    def imports(self) -> list[str]:
        """The lines of what was imported, in their order."""
        return [line for name, line in _IMPORTS.items() if name in self._imports]

    def bring(self, name: str) -> None:
        """Import a name, one of those that code may import."""
        if name not in _IMPORTS:
            raise ValueError(f"name: expected one of {', '.join(_IMPORTS)}, got {name!r}")
        self._imports.add(name)

    def free(self, name: str) -> str:
        """Give a name that the program takes from nowhere, so that it can run again."""
        while name in self.used or name in self.missing:
            name += "_"
        return name

    def name(self, value: object, otherwise: str) -> str:
        """Give the name of a value, or one that is to be filled in."""
        found = self.known(value)
        if found is None:
            self.missing[otherwise] = _what(value)
        return found or otherwise

    def known(self, value: object) -> str | None:
        """Give the name of a value, or None."""
        found = self._names.get(id(value))
        if found is not None:
            self.used.add(found)
        return found

    def write(self, value: object, otherwise: str) -> str:
        """Write a value; what cannot be written is given by name."""
        return self._text(value, otherwise)

    def literal(self, value: object) -> str | None:
        """Write a value that can be written in full, else None: a number, a patch of numbers."""
        try:
            return self._text(value, None)
        except _Unwritable:
            return None

    def _text(self, value: object, otherwise: str | None) -> str:
        if type(value) in _PLAIN:
            return repr(value)
        if type(value) is float:
            return repr(value) if math.isfinite(value) else f'float("{value}")'
        if isinstance(value, torch.dtype | torch.device):
            self.bring("torch")
            return str(value) if isinstance(value, torch.dtype) else f"torch.device({str(value)!r})"
        if isinstance(value, PurePath):
            self.bring("Path")
            return f"Path({str(value)!r})"
        if isinstance(value, Weight):
            return repr(value.scale) if value == Weight(value.scale) else f"ap.{value!r}"
        if type(value) is list:
            return f"[{', '.join(self._texts(value, otherwise))}]"
        if type(value) is tuple:
            return f"({', '.join(self._texts(value, otherwise))}{',' if len(value) == 1 else ''})"
        if type(value) is dict:
            keys, values = (self._texts(part, otherwise) for part in (value, value.values()))
            return f"{{{', '.join(map(': '.join, zip(keys, values, strict=True)))}}}"
        text = self._of_fields(value)
        if text is None and otherwise is None:
            raise _Unwritable
        return text or self.name(value, otherwise or "")

    def _texts(self, values: Iterable[object], otherwise: str | None) -> list[str]:
        return [
            self._text(value, otherwise and f"{otherwise}_{place}")
            for place, value in enumerate(values)
        ]

    def _of_fields(self, value: object) -> str | None:
        """Write a public dataclass of the package by its fields, where these can be written."""
        kind = type(value)
        if not is_dataclass(value) or getattr(_package(), kind.__name__, None) is not kind:
            return None
        parts = []
        for field in fields(value):
            text = self.literal(getattr(value, field.name))
            if text is None or not field.init:
                return None
            if field.name in _ALWAYS or text != self.literal(field.default):
                parts.append(f"{field.name}={text}")
        return f"ap.{kind.__name__}({', '.join(parts)})"


class _Unwritable(Exception):
    """A value has no text in Python."""


def _package() -> ModuleType:
    """Give the package itself, whose names are what ``ap.`` finds."""
    return import_module("attnpatch")


def _what(value: object) -> str:
    """Say what a value is: its type, a tensor's dtype, shape and device too."""
    kind = type(value).__name__
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{kind}, {dtype} {tuple(value.shape)} on {value.device}"
    return kind
