# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Verdicts on kernels: what is in them, and the file that keeps them.

One JSON file a device that a person can read, send and delete. It holds the identity of what was
measured (device, driver, torch, build); where anything of it differs the file speaks of something
else and is ignored, with a line in the log that says what changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

FORMAT = 1
STATES = ("right", "wrong", "failed")
LEAST_MEDIAN, LEAST_QUARTILE = 1.05, 1.0

Identity = Mapping[str, str | int]
"""What a verdict holds for: words and numbers by name, ``"device"`` and ``"name"`` among them."""


@dataclass(frozen=True)
class Verdict:
    """What was found out about a kernel in one class of calls.

    Attributes
    ----------
    operator, dtype, call
        What was called: the operator, the dtype of its first argument, the class.
    state
        ``"right"``; ``"wrong"``: results differ; ``"failed"``: it raised, crashed or hung.
    median, quartile
        Plain torch's time over the kernel's, in the middle and in the lower quarter of the rounds.
    error, plain_error
        Largest difference from float64, of the kernel and of plain torch.
    reason
        What went wrong, in words.
    """

    operator: str
    dtype: str
    call: str
    state: str
    median: float = 0.0
    quartile: float = 0.0
    error: float = 0.0
    plain_error: float = 0.0
    reason: str = ""

    def __post_init__(self) -> None:
        for name, expected in (("operator", str), ("dtype", str), ("call", str), ("reason", str)):
            if not isinstance(getattr(self, name), expected):
                raise ValueError(f"{name}: expected text, got {getattr(self, name)!r}")
        if self.state not in STATES:
            raise ValueError(f"state: expected one of {STATES}, got {self.state!r}")
        for name in ("median", "quartile", "error", "plain_error"):
            value = getattr(self, name)
            known = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not known or math.isnan(value):
                raise ValueError(f"{name}: expected a number, got {value!r}")

    @property
    def admits(self) -> bool:
        """Whether the kernel serves: right, and not slower, be it by chance."""
        return (
            self.state == "right"
            and self.median >= LEAST_MEDIAN
            and self.quartile >= LEAST_QUARTILE
        )

    @property
    def rejects(self) -> bool:
        """Whether the kernel must not serve even where it is the default: wrong, or slower."""
        return self.state != "right" or self.median < 1 / LEAST_MEDIAN

    @property
    def why(self) -> str:
        """What the verdict says, in words."""
        if self.state != "right":
            return f"{self.state}: {self.reason}"
        return f"{self.median:.2f} times as fast as plain torch"


def folder() -> Path:
    """Return where the user's verdicts lie: ``$ATTNPATCH_CACHE``, or the system's cache folder.

    Raises
    ------
    FileNotFoundError
        Where that would be in the home of a user who has none, as in containers.
    """
    chosen = os.environ.get("ATTNPATCH_CACHE")
    if chosen:
        return Path(chosen) / "verdicts"
    try:
        return _cache_folder() / "attnpatch" / "verdicts"
    except RuntimeError as error:
        raise FileNotFoundError(
            "ATTNPATCH_CACHE: expected the name of a folder for verdicts, for there is no home"
        ) from error


def _cache_folder() -> Path:
    """Return the system's folder for what programs keep of a user."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def file_of(identity: Identity, where: Path) -> Path:
    """Return the file for what an identity names."""
    text = json.dumps(dict(identity), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return where / f"{identity['device']}-{digest}.json"


def write(identity: Identity, verdicts: Iterable[Verdict], where: Path | None = None) -> Path:
    """Write verdicts, whole or not at all; those of other operators in the file stay.

    Returns
    -------
    Path
        The file.
    """
    path = file_of(identity, folder() if where is None else where)
    new = list(verdicts)
    measured = {verdict.operator for verdict in new}
    kept = [v for v in _verdicts_in(path, identity) or [] if v.operator not in measured]
    content = {
        "format": FORMAT,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "identity": dict(identity),
        "verdicts": [asdict(v) for v in sorted([*kept, *new], key=_order)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def _order(verdict: Verdict) -> tuple[str, str, str]:
    return verdict.operator, verdict.dtype, verdict.call


def read(identity: Identity, where: Path | None = None) -> list[Verdict] | None:
    """Read the user's verdicts on what an identity names; None where there are none, or no home.

    A file that cannot be read is ignored with a warning; so is one of the same device in another
    state, whose differences the log names.
    """
    if where is None:
        try:
            where = folder()
        except FileNotFoundError:
            return None
    verdicts = _verdicts_in(file_of(identity, where), identity)
    if verdicts is None:
        _name_what_changed(identity, where)
    return verdicts


def _verdicts_in(path: Path, identity: Identity) -> list[Verdict] | None:
    content = _content(path)
    if content is None or content["identity"] != dict(identity):
        return None
    return content["verdicts"]


def _content(path: Path) -> dict[str, Any] | None:
    """Read a file of verdicts; None where there is none, or none that makes sense."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format: expected {FORMAT}, got {content['format']!r}")
        identity, verdicts = dict(content["identity"]), content["verdicts"]
        return {"identity": identity, "verdicts": [Verdict(**entry) for entry in verdicts]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s is ignored: %s: %s", path, type(error).__name__, error)
        return None


def _files_in(where: Path, identity: Identity) -> list[Path]:
    """Return the files on a type of device; none of a folder that may not be read."""
    try:
        return sorted(where.glob(f"{identity['device']}-*.json"))
    except OSError:
        return []


def _name_what_changed(identity: Identity, where: Path) -> None:
    """Say in the log why verdicts on this device, if there are some, count no more."""
    for path in _files_in(where, identity):
        content = _content(path)
        if content is None or content["identity"].get("name") != identity["name"]:
            continue
        old = content["identity"]
        changed = [
            f"{name} {old.get(name)} -> {identity.get(name)}"
            for name in sorted({*old, *identity})
            if old.get(name) != identity.get(name)
        ]
        _log.warning(
            "%s: its verdicts are void (%s); attnpatch tune makes new ones",
            *(identity["name"], ", ".join(changed)),
        )
        return


def read_shipped(identity: Identity, where: Path) -> list[Verdict] | None:
    """Read the verdicts that came with this build for the like of a device.

    The like of a GPU has its compute capability and within a tenth as many multiprocessors.
    """
    for path in _files_in(where, identity):
        content = _content(path)
        if content is not None and _is_like(content["identity"], identity):
            return content["verdicts"]
    return None


def _is_like(measured: Identity, identity: Identity) -> bool:
    if identity["device"] != "cuda" or measured.get("capability") != identity["capability"]:
        return False
    theirs, ours = int(measured["multiprocessors"]), int(identity["multiprocessors"])
    return measured.get("build") == identity["build"] and abs(theirs - ours) * 10 <= ours
