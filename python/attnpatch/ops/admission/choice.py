# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Who serves a call: the user's verdicts, then shipped ones, then defaults decide."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from attnpatch.ops.admission.identity import identity_of
from attnpatch.ops.admission.verdicts import Identity, Verdict, folder, read, read_shipped

_log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class Choice:
    """Whether a kernel serves a class of calls, and why.

    Attributes
    ----------
    kernel
        The kernel serves; else plain torch.
    why
        In words.
    """

    kernel: bool
    why: str


class Table:
    """The verdicts on one device.

    Parameters
    ----------
    device
        ``"cuda"`` or ``"cpu"``: what serves without a verdict differs.
    verdicts
        On it.
    source
        Where they are from, in words.
    """

    def __init__(self, device: str, verdicts: list[Verdict], source: str) -> None:
        self.source = source
        self.verdicts = {(v.operator, v.dtype, v.call): v for v in verdicts}
        self._device = device

    @property
    def admits_any(self) -> bool:
        """Whether any kernel may serve because of a verdict."""
        return any(verdict.admits for verdict in self.verdicts.values())

    def choose(self, operator: str, dtype: str, call: str) -> Choice:
        """Choose for a class of calls."""
        verdict = self.verdicts.get((operator, dtype, call))
        if self._device == "cpu":
            if verdict is not None and verdict.rejects:
                return Choice(False, f"{self.source}: {verdict.why}")
            return Choice(True, "default" if verdict is None else f"{self.source}: {verdict.why}")
        if verdict is None:
            return Choice(False, f"{self.source} for such calls")
        return Choice(verdict.admits, f"{self.source}: {verdict.why}")


def table_for(identity: Identity, user: Path | None = None, shipped: Path = SHIPPED) -> Table:
    """Read what is known of what an identity names.

    Parameters
    ----------
    identity
        The device and what runs there.
    user, shipped
        Folders of verdicts: the user's (None: where they lie), and those that came with this build.
    """
    device = str(identity["device"])
    for verdicts, source in (
        (read(identity, user), "your verdict"),
        (read_shipped(identity, shipped), "shipped verdict"),
    ):
        if verdicts is not None:
            return Table(device, verdicts, source)
    return Table(device, [], "no verdict")


_TABLES: dict[torch.device, Table] = {}


def _table(device: torch.device) -> Table:
    if device not in _TABLES:
        table = _TABLES[device] = table_for(identity_of(device))
        used = sum(verdict.admits for verdict in table.verdicts.values())
        if table.verdicts:
            _log.info("%s: %d of our kernels' classes serve (%s)", device, used, table.source)
    return _TABLES[device]


def choice_for(device: torch.device, operator: str, dtype: str, call: str) -> Choice:
    """Choose who serves a class of calls on a device.

    Parameters
    ----------
    device
        With its number, if it has one.
    operator, dtype, call
        The operator, the dtype of its first argument as text, the class of the call.
    """
    return _table(device).choose(operator, dtype, call)


def admits_any(device: torch.device) -> bool:
    """Whether any kernel may serve a device because of a verdict."""
    return _table(device).admits_any


def explain(device: torch.device) -> Iterator[tuple[str, str, str, Choice]]:
    """Give operator, dtype, class of calls and choice for all that verdicts speak of."""
    table = _table(device)
    for operator, dtype, call in sorted(table.verdicts):
        yield operator, dtype, call, table.choose(operator, dtype, call)


def has_verdicts(device: str) -> bool:
    """Whether there may be verdicts on a type of device: a look into a folder, no more.

    In a folder that may not be read there are none: who only imports the package needs no home.
    """
    try:
        return any(folder().glob(f"{device}-*.json"))
    except OSError:
        return False
