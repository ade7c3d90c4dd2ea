# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The reference from the docstrings: a directive that shows names, and links to what it shows."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType
from typing import Any

from docutils import nodes
from reference_pages import full_names, split
from sphinx.addnodes import pending_xref
from sphinx.util.docutils import SphinxDirective, SphinxRole

LONGEST_VALUE = 60


class Names(SphinxDirective):
    """Shows each name of a module by its docstring."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Write the directives of Sphinx, and parse those."""
        module = import_module(self.arguments[0])
        lines = ["```{eval-rst}"]
        for line in self.content:
            lines += entry(module, *split(line))
        return self.parse_text_to_nodes("\n".join([*lines, "```"]))


def entry(module: ModuleType, name: str, text: str) -> list[str]:
    """Write what shows one name: its docstring, or the page's own text."""
    value, full = getattr(module, name), f"{module.__name__}.{name}"
    if text:
        shown = repr(value)
        value_line = [f"   :value: {shown}"] if len(shown) <= LONGEST_VALUE else []
        return [f".. py:data:: {full}", *value_line, "", f"   {text}", ""]
    if inspect.ismodule(value):
        return [f".. automodule:: {full}", "   :no-index:", ""]
    if inspect.isclass(value):
        return [f".. autoclass:: {full}", "   :members:", ""]
    return [f".. autofunction:: {full}", ""]


class Name(SphinxRole):
    """Text in single backticks: code, and a link where the reference has the name."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Link public names; everything else is code alone."""
        code = nodes.literal(self.rawtext, self.text)
        full = full_names().get(self.text.removesuffix("()"))
        if full is None:
            return [code], []
        options = {"refdomain": "py", "reftype": "obj", "reftarget": full, "refexplicit": True}
        return [pending_xref("", code, refdoc=self.env.docname, refwarn=True, **options)], []


def keep_first_line(
    app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Keep napoleon from reading "a: b" in the first line of a property as "type: text"."""
    if what in ("attribute", "property"):
        lines.insert(0, "\\ ")  # nothing, in reStructuredText


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.add_directive("names", Names)
    app.add_role("name", Name())
    app.connect("autodoc-process-docstring", keep_first_line, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
