# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the .ipynb of each notebook from its .py, which is the source: the same cells, no outputs.

Usage: pair_notebooks.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent.parent / "notebooks"


def paired(source: str) -> str:
    """Return the text of the .ipynb that belongs to a .py in the percent format."""
    notebook = jupytext.reads(source, fmt="py:percent")
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{place:02}"  # jupytext draws them at random
    return nbformat.writes(notebook, nbformat.NO_CONVERT) + "\n"


def main(folder: Path = FOLDER) -> None:
    """Write all of them."""
    for path in sorted(folder.glob("*.py")):
        path.with_suffix(".ipynb").write_text(paired(path.read_text("utf-8")), "utf-8")
        print(path.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
