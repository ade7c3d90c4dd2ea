# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The table of nodes: plain data, from which node classes of both kinds and the docs are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["HIDDEN", "WIDGETS", "Input", "NodeSpec", "Output", "Result"]

HIDDEN = ("prompt", "extra_pnginfo", "unique_id")
"""What the host tells a node beside its inputs, by the host's names in lower case."""

WIDGETS = ("FLOAT", "INT", "STRING", "BOOLEAN", "COMBO")
"""Types that show a widget; any other type is a socket of that name."""

Choices = Sequence[str] | Callable[[], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input of a node.

    Parameters
    ----------
    id
        Its name in saved workflows.
    type
        One of ``WIDGETS``, or the name of a socket such as "MODEL".
    tooltip
        What it does, in a sentence.
    default, minimum, maximum, step
        Of a widget; the last three of a number.
    choices
        Of a COMBO: the choices, or a function that lists them. The first is the default unless
        `default` names another.
    optional
        It may stay unconnected; its widget may be missing from an older workflow.
    multiline
        A STRING of several lines.
    lazy
        What leads to it runs only if the node's `needs` asks for it.
    """

    id: str
    type: str
    tooltip: str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: Choices = ()
    optional: bool = False
    multiline: bool = False
    lazy: bool = False

    def __post_init__(self) -> None:
        if not self.tooltip:
            raise ValueError(f"{self.id}: expected a tooltip")
        if self.type in ("FLOAT", "INT"):
            numbers = (self.default, self.minimum, self.maximum)
            if None in numbers or not self.minimum <= self.default <= self.maximum:
                raise ValueError(f"{self.id}: expected minimum <= default <= maximum")
        if self.type == "COMBO" and self.default is not None and self.default not in self.options():
            raise ValueError(f"{self.id}: its default {self.default!r} is no choice")

    @property
    def widget(self) -> bool:
        """Whether it shows a widget."""
        return self.type in WIDGETS

    def options(self) -> list[str]:
        """Return the choices of a COMBO."""
        return list(self.choices() if callable(self.choices) else self.choices)

    def attributes(self) -> dict[str, Any]:
        """Return what the host wants to know of it, by the host's names."""
        known = {
            "default": self.default,
            "min": self.minimum,
            "max": self.maximum,
            "step": self.step,
            "multiline": self.multiline or None,
            "lazy": self.lazy or None,
            "tooltip": self.tooltip,
        }
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Output:
    """One output of a node: its type of socket, the name it shows, and a tooltip."""

    type: str
    name: str
    tooltip: str


@dataclass(frozen=True)
class Result:
    """What a node gives: a value for each output, and what the host is to show."""

    values: tuple[Any, ...]
    ui: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """One node.

    Parameters
    ----------
    id
        Its name in saved workflows.
    title, category, description
        What users see.
    inputs, outputs
        In the order in which saved workflows store them; optional inputs last.
    run
        Called with the inputs by name; returns a tuple of one value for each output, or a `Result`.
        Pure: the host keeps what it returned and may share it.
    function
        The name of the class's method that runs it, which other packs may call.
    output_node
        The host runs it although nothing is connected to its outputs.
    fingerprint
        Called with the inputs by name; the node runs again when what it returns has changed.
    check
        Called as a class method with the inputs that its signature names; returns True or an
        error's text.
    hidden
        Of `HIDDEN`: what `run` and `needs` get beside the inputs.
    needs
        Called with the inputs by name, lazy ones None as long as they are not there; returns the
        names of those that must be.
    """

    id: str
    title: str
    category: str
    description: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    run: Callable[..., tuple[Any, ...] | Result]
    function: str = "run"
    output_node: bool = False
    fingerprint: Callable[..., Any] | None = None
    check: Callable[..., bool | str] | None = None
    hidden: tuple[str, ...] = ()
    needs: Callable[..., list[str]] | None = None

    def __post_init__(self) -> None:
        names = [declared.id for declared in self.inputs]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.id}: two inputs have one name")
        if not set(self.hidden) <= set(HIDDEN):
            raise ValueError(f"{self.id}: expected of {', '.join(HIDDEN)}, got {self.hidden}")
        if any(declared.lazy for declared in self.inputs) != (self.needs is not None):
            raise ValueError(
                f"{self.id}: expected needs where there are lazy inputs, and only there"
            )
        optional = [declared.optional for declared in self.inputs]
        if sorted(optional) != optional:
            raise ValueError(f"{self.id}: optional inputs come last")

    def call(self, values: Mapping[str, Any]) -> Result:
        """Run the node; optional inputs that are not there get their defaults."""
        known = {i.id: i.default for i in self.inputs if i.optional or i.id in values}
        result = self.run(**{**known, **values})  # in the table's order
        return result if isinstance(result, Result) else Result(result)
