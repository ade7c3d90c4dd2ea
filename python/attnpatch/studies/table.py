# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An immutable table of plain values: what TOML and JSON hold, and patches beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attnpatch.engine import Patch

__all__ = ["EMPTY", "Table", "frozen", "plain"]


class Table(Mapping[str, Any]):
    """A mapping of names that does not change: it compares, hashes, prints as a dict, pickles.

    Parameters
    ----------
    values : Mapping
        Strings, numbers, booleans, sequences and mappings of these, and patches.
    **more
        Others, which go before them.

    Raises
    ------
    TypeError
        For other values, with the way to them.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any] | None = None, **more: Any) -> None:
        given = {**(values or {}), **more}
        self._values = {name: frozen(value, str(name)) for name, value in given.items()}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)

    def __reduce__(self) -> tuple[Any, ...]:
        return Table, (self._values,)

    def without(self, *names: str) -> Table:
        """Return a table without some names."""
        return Table({name: value for name, value in self.items() if name not in names})


EMPTY = Table()


def frozen(value: Any, where: str) -> Any:
    """Return a value that can not change; `where` it stands is for the error."""
    if value is None or isinstance(value, str | bool | int | float | Patch | Table):
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{where}: expected names of type str, got {name!r}")
        return Table({name: frozen(item, f"{where}.{name}") for name, item in value.items()})
    if isinstance(value, Sequence):
        return tuple(frozen(item, where) for item in value)
    if hasattr(value, "__fspath__"):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # a number of NumPy or torch
        return value.item()
    raise TypeError(
        f"{where}: expected a text, a number, true or false, a list or a table of these, or a "
        f"patch, got {type(value).__name__}"
    )


def plain(value: Any) -> Any:
    """Return a value as JSON and TOML know it: dicts and lists; patches stay what they are."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value
