# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which names the pages of the reference list, and where.

A page lists names in blocks that stay readable where nothing renders them. Values, which have no
docstring, have a text behind a colon::

    ```{names} attnpatch.engine
    PatchStack
    COND: the kind of a row with the prompt
    ```
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PAGES = Path(__file__).parents[1] / "reference"
BLOCK = re.compile(r"^```\{names\} (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def listed(folder: Path = PAGES) -> Iterator[tuple[str, str, str]]:
    """Give module, name and text of each entry of the pages in a folder."""
    for page in sorted(folder.glob("*.md")):
        for module, block in BLOCK.findall(page.read_text(encoding="utf-8")):
            yield from ((module, *split(line)) for line in block.splitlines())


def split(line: str) -> tuple[str, str]:
    """Split a line of a block into the name and its text, or none."""
    name, _, text = line.partition(":")
    return name.strip(), text.strip()


@cache
def full_names() -> dict[str, str]:
    """Every listed name, with and without its module, to its full name."""
    known: dict[str, str] = {}
    for module, name, _ in listed():
        full = f"{module}.{name}"
        for short in (full, full.removeprefix("attnpatch."), name):
            known.setdefault(short, full)
    return known
