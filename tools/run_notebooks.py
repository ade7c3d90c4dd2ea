# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Runs notebooks, all in one kernel, and writes them with their outputs.

Usage: run_notebooks.py [--missing] FOLDER NOTEBOOK.ipynb [NOTEBOOK.ipynb …]

With --missing those alone that the folder does not have, cell by cell, with outputs.
Each begins with an empty namespace; what was imported stays loaded. Ends with 1 at the first cell
that raises or writes to stderr, and says which.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

_SECONDS = 600  # for one cell, on a busy machine


async def run(output: Path, paths: list[Path]) -> str:
    """Run notebooks and write them; return what went wrong, or an empty text."""
    manager = AsyncKernelManager(kernel_name="python3")
    output.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory() as folder:
            for path in paths:
                notebook = nbformat.read(path, 4)
                notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
                resources = {"metadata": {"path": folder}}
                client = NotebookClient(notebook, km=manager, timeout=_SECONDS, resources=resources)
                try:
                    await client.async_execute(cleanup_kc=False)
                except CellExecutionError as error:
                    return f"{path.name}: {error}"
                finally:
                    client.kc.stop_channels()
                del notebook.cells[0]
                nbformat.write(notebook, output / path.name)
                if complaint := _complaint(notebook):
                    return f"{path.name}: {complaint}"
                print(path.name, flush=True)
    finally:
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)
    return ""


def _complaint(notebook: nbformat.NotebookNode) -> str:
    """Return the first cell that wrote to stderr, with what it wrote."""
    for cell in notebook.cells:
        for written in cell.get("outputs", ()):
            if written.get("name") == "stderr":
                return f"{cell.source}\n{written.text}"
    return ""


def is_run(path: Path, executed: Path) -> bool:
    """Say whether a file holds a notebook's cells, and was run to its end."""
    if not executed.is_file():
        return False
    wanted, found = nbformat.read(path, 4).cells, nbformat.read(executed, 4).cells
    code = [cell for cell in found if cell.cell_type == "code"]
    return [cell.source for cell in wanted] == [cell.source for cell in found] and all(
        cell.execution_count for cell in code
    )


def main(words: list[str]) -> str:
    """Run what the command line says; return what went wrong, or an empty text."""
    missing = words[0] == "--missing"
    output, *paths = (Path(word) for word in words[missing:])
    if missing:
        paths = [path for path in paths if not is_run(path, output / path.name)]
    return asyncio.run(run(output, paths)) if paths else ""


if __name__ == "__main__":
    if problem := main(sys.argv[1:]):
        sys.exit(problem)
