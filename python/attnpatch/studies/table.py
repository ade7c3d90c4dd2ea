# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An immutable table of plain values: what TOML and JSON hold, and patches beside."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attnpatch.engine import Patch

__all__ = ["EMPTY", "Table", "empty_for_none", "frozen", "none_for_empty", "plain"]


class Table(Mapping[str, Any]):
    """A mapping of names that does not change: it hashes, prints as a dict, pickles.

    It compares as a dict does, lists as tuples; but true is not 1, nor false 0: cells differ where
    their JSON does.

    Parameters
    ----------
    values : Mapping
        Strings, numbers, booleans, sequences and mappings of these, and patches.
    **more
        Others, which go before them.

    Raises
    ------
    TypeError, ValueError
        For other values, and numbers that are not finite, with the way to them.
    """

    __slots__ = ("_key", "_values")

    def __init__(self, values: Mapping[str, Any] | None = None, **more: Any) -> None:
        if values is not None and not isinstance(values, Mapping):
            raise TypeError(f"expected a table, got {values!r}")
        given = {**(values or {}), **more}
        self._values = {_name("names", name): frozen(v, name) for name, v in given.items()}
        self._key: object = None  # made for the first who compares

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        try:
            return self.key == (other if isinstance(other, Table) else Table(other)).key
        except (TypeError, ValueError):  # no table has such values
            return False

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> object:
        """What the table compares and hashes by."""
        if self._key is None:
            self._key = frozenset((name, _typed(item)) for name, item in self.items())
        return self._key

    def __repr__(self) -> str:
        return repr(self._values)

    def __reduce__(self) -> tuple[Any, ...]:
        return Table, (self._values,)

    def without(self, *names: str) -> Table:
        """Return a table without some names."""
        return Table({name: value for name, value in self.items() if name not in names})


EMPTY = Table()


def _typed(value: object) -> object:
    """Return what a value compares and hashes by: with the type of what is true or false."""
    if isinstance(value, Table):
        return value.key
    if isinstance(value, tuple):
        return tuple(map(_typed, value))
    return (bool, value) if isinstance(value, bool) else value


def frozen(value: Any, where: str) -> Any:
    """Return a value that can not change; `where` it stands is for the error."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: expected a finite number, got {value}")
    if isinstance(value, str):
        return _name(where, value)
    if value is None or isinstance(value, bool | int | float | Patch | Table):
        return value
    if isinstance(value, Mapping):
        found = {_name(where, name): item for name, item in value.items()}
        return Table({name: frozen(item, f"{where}.{name}") for name, item in found.items()})
    if isinstance(value, Sequence):
        return tuple(frozen(item, where) for item in value)
    if hasattr(value, "__fspath__"):
        return str(value)
    if hasattr(value, "tolist"):  # numbers of NumPy or torch
        return frozen(value.tolist(), where)
    raise TypeError(
        f"{where}: expected a text, a number, true or false, a list or a table of these, or a "
        f"patch, got {type(value).__name__}"
    )


def _name(where: str, value: Any) -> str:
    """Return a text that can be written to a file."""
    if not isinstance(value, str):
        raise TypeError(f"{where}: expected texts as names, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: expected a text of Unicode, got {value!r}") from error
    return value


def none_for_empty(value: Any) -> Any:
    """Return a value with None in the place of empty tables: TOML has no other word for it."""
    if isinstance(value, Mapping):
        return {name: none_for_empty(item) for name, item in value.items()} if value else None
    return [none_for_empty(v) for v in value] if isinstance(value, list | tuple) else value


def empty_for_none(value: Any) -> Any:
    """Return plain values with empty tables in the place of None."""
    if isinstance(value, dict):
        return {name: empty_for_none(item) for name, item in value.items()}
    if isinstance(value, list):
        return [empty_for_none(item) for item in value]
    return {} if value is None else value


def plain(value: Any) -> Any:
    """Return a value as JSON and TOML know it: dicts and lists; patches stay what they are."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value
