# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Mends the pages with sources: viewcode takes one module's name for all names in a file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

BACK = re.compile(r'<a class="viewcode-back" href="([^"#]*)#([^"]*)">\[docs\]</a>')
ENTRY = re.compile(r'<li><a href="[^"]*">([\w.]+)</a></li>\n')


def mended(body: str, anchors: Mapping[str, str]) -> str:
    """Point links back to the reference to where the names are; drop those to nowhere.

    Parameters
    ----------
    body : str
        Of a page with sources.
    anchors : mapping of str to str
        Every name in the reference, with the page that has it.
    """

    def mend(link: re.Match[str]) -> str:
        address, anchor = link.groups()
        page = PurePosixPath(address).stem
        there = [name for name, document in anchors.items() if PurePosixPath(document).stem == page]
        if anchor in there:
            return link[0]
        parts = anchor.split(".")
        for start in range(1, len(parts)):
            end = "." + ".".join(parts[start:])
            for name in there:
                if name.endswith(end):
                    return link[0].replace(f"#{anchor}", f"#{name}")
        return ""

    return BACK.sub(mend, body)


def mend_page(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Mend a page before it is written."""
    if page == "_modules/index":
        found = app.env._viewcode_modules
        context["body"] = ENTRY.sub(lambda m: m[0] if found.get(m[1]) else "", context["body"])
    elif page.startswith("_modules/"):
        known = app.env.domains["py"].objects
        anchors = {one.node_id: one.docname for one in known.values()}
        context["body"] = mended(context["body"], anchors)


def begin_anew(app: Any) -> None:
    """Delete the pages of an earlier build: their links go by the reference, not their source."""
    shutil.rmtree(Path(app.outdir) / "_modules", ignore_errors=True)


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("builder-inited", begin_anew)
    app.connect("html-page-context", mend_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
