# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Write docs/pipelines.md, or check that it is up to date.

Usage: ``python tools/pipelines.py [--check]``, with attnpatch built and installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from attnpatch.hosts.diffusers.pipelines import LAYOUTS, UNKNOWN_ROWS, UNPATCHED

PATH = Path(__file__).resolve().parent.parent / "docs" / "pipelines.md"
HEADER = """\
# Pipelines of diffusers

<!-- Written by tools/pipelines.py. -->

A batch of a UNet holds cond and uncond rows, and each pipeline lays them out in a way of its own.
The pipeline that runs is found when its UNet is called, whichever one the patches were attached to;
its class says how its rows lie.

- A class of yours that inherits `__call__` counts as its parent.
- Where code of yours calls the UNet (a `__call__` of your own, a callback, a wrapper), the texts of
  the rows tell: they are compared with the variables of the pipeline, of which those named
  `negative…` or `uncond…` are uncond. What cannot be told so is an error that names
  `cond_or_uncond`, never a guess.
- `cond_or_uncond` of `attach` and `patch_model` goes before all of this.
- Patches that treat all rows alike, such as token reduction, need none of it.
"""
REFUSED = """\
## Nobody tells which rows are uncond
Patches that tell cond and uncond apart raise `ValueError` when these run, unless `cond_or_uncond`
is given. Token reduction works.

"""
UNPATCHED_HEADER = """\
## Not patched
`attach` refuses these.

"""
Value = TypeVar("Value")


def page() -> str:
    """Return the text of the page."""
    parts = [
        HEADER,
        "## Patched\n\n" + _table("rows", LAYOUTS, lambda layout: _first_line(layout.__doc__)),
        REFUSED + _table("reason", UNKNOWN_ROWS, str),
        UNPATCHED_HEADER + _table("reason", UNPATCHED, str),
    ]
    return "\n".join(parts)


def _table(title: str, verdicts: Mapping[str, Value], text: Callable[[Value], str]) -> str:
    rows = [f"| {title} | pipelines |", "| --- | --- |"]
    by_text: Iterable[tuple[str, Iterable[str]]] = groupby(verdicts, lambda n: text(verdicts[n]))
    rows += [f"| {reason} | {', '.join(f'`{n}`' for n in names)} |" for reason, names in by_text]
    return "\n".join(rows) + "\n"


def _first_line(docstring: str | None) -> str:
    return (docstring or "").splitlines()[0].rstrip(".")


def main() -> int:
    """Run the command line; 1 where the page had to change under ``--check``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    if PATH.exists() and PATH.read_text(encoding="utf-8") == page():
        return 0
    if check:
        print(f"{PATH} is out of date: python tools/pipelines.py writes it", file=sys.stderr)
        return 1
    PATH.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
