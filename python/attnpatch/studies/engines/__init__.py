# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Where a sweep runs: in this process, in processes, or on Ray."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from attnpatch.studies.engines.here import Here
from attnpatch.studies.engines.job import Engine, Job, Pool, WorkerLost
from attnpatch.studies.names import unknown_name

__all__ = ["ENGINES", "Engine", "Here", "Job", "Pool", "WorkerLost", "make_engine"]

ENGINES = ("here", "processes", "ray")


def make_engine(name: str, **options: Any) -> Engine:
    """Return an engine by its name.

    Parameters
    ----------
    name : {"here", "processes", "ray"}
    **options
        workers : int
            How many, for processes and Ray; None: one a device.
        address : str
            Of a cluster of Ray; None: the one that is running, or one on this machine.

    Raises
    ------
    ValueError
        For other names, and options that an engine does not have.
    ImportError
        Where Ray is not installed.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    given = {key: value for key, value in options.items() if value is not None}
    allowed = {"here": (), "processes": ("workers",), "ray": ("workers", "address")}[name]
    for key in given:
        if key not in allowed:
            raise ValueError(f"{key}: the engine {name!r} has none")
    if name == "here":
        return Here()
    kind = {"processes": "Processes", "ray": "Ray"}[name]
    module = "processes" if name == "processes" else "on_ray"
    return getattr(import_module(f"attnpatch.studies.engines.{module}"), kind)(**given)
