# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Axes: which values of which parameters a study goes through, and how they are joined."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnpatch.studies.names import unknown_name
from attnpatch.studies.table import EMPTY, Table, empty_for_none, none_for_empty, plain
from attnpatch.studies.values import boolean, real, whole

__all__ = ["JOINS", "Axes"]

JOINS = ("grid", "zip", "list", "random")
_RANGE = ("low", "high", "log", "integer")


@dataclass(frozen=True)
class Axes:
    """Parameters and their values, joined in one way. Several of these are joined as a grid.

    Parameters
    ----------
    join : {"grid", "zip", "list", "random"}
        Every value with every other; the first values together, the second ones, and so on; the
        combinations of a list; or draws.
    values : Mapping
        By the name of a parameter (``"style.weight"``, ``"seed"``) its values. For random draws a
        list to choose from, or a range ``{"low": 0.1, "high": 2.0, "log": True}``; ``integer``
        draws whole numbers, both ends among them.
    combinations : sequence of Mapping
        For a list: each with the values of some parameters.
    count : int
        For random: how many draws.
    seed : int
        For random: what they are drawn from.

    Raises
    ------
    TypeError, ValueError
        For what does not fit together.

    Examples
    --------
    >>> Axes.grid({"style.weight": [0.2, 0.5], "seed": [0, 1]})
    Axes('grid', {'style.weight': (0.2, 0.5), 'seed': (0, 1)})
    """

    join: str
    values: Mapping[str, Any] = EMPTY
    combinations: Sequence[Mapping[str, Any]] = ()
    count: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.join not in JOINS:
            raise unknown_name("axes.join", self.join, JOINS)
        object.__setattr__(self, "values", _row("axes", self.values))
        rows: object = self.combinations
        if isinstance(rows, str) or not isinstance(rows, Sequence):
            raise TypeError(f"axes.combinations: expected a list of tables, got {rows!r}")
        combinations = tuple(_row("axes.combinations", row) for row in rows)
        object.__setattr__(self, "combinations", combinations)
        whole("axes.count", self.count)
        whole("the seed of the draws", self.seed)
        self._check()

    def _check(self) -> None:
        drawn = self.join == "random"
        if drawn != bool(self.count):
            expected = "at least 1" if drawn else f"none for {self.join}"
            raise ValueError(f"axes.count: expected {expected}, got {self.count}")
        if (self.join == "list") != bool(self.combinations):
            raise ValueError(
                f"axes.combinations: expected some for a list and none for other joins, got "
                f"{len(self.combinations)} for {self.join!r}"
            )
        if self.join == "list" and self.values:
            raise ValueError(f"axes: expected combinations alone for a list, got {self.values}")
        for name, values in self.values.items():
            if drawn and isinstance(values, Table):
                _check_range(name, values)
            elif not isinstance(values, tuple) or not values:
                raise ValueError(f"{name}: expected a list of values, got {values!r}")
        lengths = {name: len(values) for name, values in self.values.items()}
        if self.join == "zip" and len(set(lengths.values())) > 1:
            found = ", ".join(f"{count} of {name}" for name, count in lengths.items())
            raise ValueError(f"axes: expected equally many values for a zip, got {found}")

    @classmethod
    def grid(cls, values: Mapping[str, Sequence[Any]]) -> Axes:
        """Join every value with every other."""
        return cls("grid", values)

    @classmethod
    def zip(cls, values: Mapping[str, Sequence[Any]]) -> Axes:
        """Join the first values of all parameters, the second ones, and so on."""
        return cls("zip", values)

    @classmethod
    def list(cls, combinations: Sequence[Mapping[str, Any]]) -> Axes:
        """Take combinations as they are given."""
        return cls("list", combinations=combinations)

    @classmethod
    def random(cls, values: Mapping[str, Any], count: int, seed: int = 0) -> Axes:
        """Draw so many times; the same seed gives the same draws everywhere."""
        return cls("random", values, count=count, seed=seed)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in order."""
        rows = self.combinations or (self.values,)
        return tuple(dict.fromkeys(name for row in rows for name in row))

    def __len__(self) -> int:
        if self.join == "list":
            return len(self.combinations)
        if self.join == "random":
            return self.count
        lengths = [len(values) for values in self.values.values()]
        if self.join == "zip":
            return lengths[0] if lengths else 1
        return math.prod(lengths)

    def __iter__(self) -> Iterator[Table]:
        names = tuple(self.values)
        if self.join == "list":
            yield from map(Table, self.combinations)
        elif self.join == "random":
            generator = random.Random(self.seed)
            for _ in range(self.count):
                # In the order of the names: equal axes may have theirs in another.
                drawn = {name: _draw(generator, self.values[name]) for name in sorted(names)}
                yield Table({name: drawn[name] for name in names})
        elif not names:
            yield Table()
        else:
            rows = zip if self.join == "zip" else itertools.product
            for row in rows(*self.values.values()):
                yield Table(dict(zip(names, row, strict=True)))

    def to_plain(self) -> dict[str, Any]:
        """Give what ``from_plain`` reads: a table of TOML."""
        found: dict[str, Any] = {"join": self.join, **plain(self.values)}
        if self.join == "list":
            found["combinations"] = plain(self.combinations)
        if self.join == "random":
            found |= {"count": self.count, "draw_seed": self.seed}
        return empty_for_none(found)

    @classmethod
    def from_plain(cls, table: Mapping[str, Any]) -> Axes:
        """Read a table: ``join``, its options (``count``, ``draw_seed``), all else are axes.

        TOML has no word for None: an empty table stands for it.
        """
        if not isinstance(table, Mapping):
            raise TypeError(f"axes: expected tables, got {table!r}")
        values = dict(table)
        join = values.pop("join", "grid")
        options: dict[str, Any] = {}
        if join == "list":
            options["combinations"] = values.pop("combinations", ())
        if join == "random":
            options = {"count": values.pop("count", 0), "seed": values.pop("draw_seed", 0)}
        return cls(join, values, **options)

    def __repr__(self) -> str:
        parts = [repr(self.join)]
        if self.values:
            parts.append(repr(self.values))
        if self.combinations:
            parts.append(f"combinations={self.combinations!r}")
        if self.count:
            parts.append(f"count={self.count}, seed={self.seed}")
        return f"Axes({', '.join(parts)})"


def _row(where: str, values: object) -> Table:
    if not isinstance(values, Mapping):
        raise TypeError(f"{where}: expected a table by the names of parameters, got {values!r}")
    return Table({name: none_for_empty(value) for name, value in values.items()})


def _check_range(name: str, values: Mapping[str, Any]) -> None:
    for key in values:
        if key not in _RANGE:
            raise unknown_name(f"{name}.{key}", key, _RANGE)
    low, high = (real(f"{name}.{end}", values.get(end)) for end in ("low", "high"))
    log, integer = (boolean(f"{name}.{key}", values.get(key, False)) for key in ("log", "integer"))
    if not low <= high:
        raise ValueError(f"{name}: expected numbers low <= high, got {low!r} and {high!r}")
    if integer and not (float(low).is_integer() and float(high).is_integer()):
        raise ValueError(
            f"{name}: expected whole numbers where integer is true, got {low!r} and {high!r}"
        )
    if log and not low > 0:
        raise ValueError(f"{name}: expected a low above 0 where log is true, got {low}")


def _draw(generator: random.Random, values: Any) -> Any:
    if not isinstance(values, Table):
        return values[generator.randrange(len(values))]
    low, high = values["low"], values["high"]
    if values.get("integer") and not values.get("log"):
        return generator.randint(int(low), int(high))
    if values.get("log"):
        drawn = math.exp(generator.uniform(math.log(low), math.log(high)))
    else:
        drawn = generator.uniform(low, high)
    # Twelve digits: what is written to a file is what was drawn.
    drawn = round(drawn) if values.get("integer") else float(f"{drawn:.12g}")
    return min(max(drawn, low), high)
