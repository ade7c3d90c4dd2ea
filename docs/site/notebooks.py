# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Notebooks as pages: their cells, with what they gave when they were run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.util import logging

EXECUTED = Path(__file__).parents[2] / "build/notebooks"

logger = logging.getLogger(__name__)


class NotebookParser(MystParser):
    """Reads a notebook as the Markdown that says the same."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parse a notebook, with the outputs of its executed copy where there is one."""
        notebook = json.loads(inputstring)
        executed = EXECUTED / Path(document["source"]).name
        if executed.is_file():
            notebook = json.loads(executed.read_text(encoding="utf-8"))
            document.settings.env.note_dependency(str(executed))
        else:
            logger.warning("no outputs of %s: `./run docs` runs notebooks first", executed.name)
        super().parse("\n\n".join(map(as_markdown, notebook["cells"])), document)


def as_markdown(cell: dict[str, Any]) -> str:
    """Write a cell and its outputs."""
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return source
    return "\n\n".join([fenced("python", source), *map(_output, cell["outputs"])])


def fenced(kind: str, text: str) -> str:
    """Put a text into a block, by a fence that is not in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}"


def _output(output: dict[str, Any]) -> str:
    """Write one output, in the richest of the forms that it has."""
    data = output.get("data", {})
    if "text/html" in data:
        return _raw("".join(data["text/html"]))
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return _raw(f'<img alt="Output of the cell" src="data:image/png;base64,{picture}">')
    text = "".join(output.get("text", data.get("text/plain", "")))
    return fenced("text", text) if text.strip() else ""


def _raw(html: str) -> str:
    return fenced("{raw} html", f'<div class="output">{html}</div>')


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
