# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Refuses a site with links to pages, or places in pages, that it does not have."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ELSEWHERE = re.compile(r"[a-z]+:|//")


class Links(HTMLParser):
    """Gathers the links of a page, and the places that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str | None] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one tag."""
        values = dict(attrs)
        self.places |= {values.get("id"), values.get("name") if tag == "a" else None}
        address = values.get("href") or values.get("src")
        if address and not ELSEWHERE.match(address):
            self.links.add(address)


def dead_links(folder: Path) -> list[str]:
    """List "page: address" for all links within a folder that lead nowhere."""
    pages = {}
    for path in folder.resolve().rglob("*.html"):
        pages[path] = Links()
        pages[path].feed(path.read_text(encoding="utf-8"))
    found = []
    for path, page in sorted(pages.items()):
        for address in sorted(page.links):
            target, _, place = address.partition("#")
            there = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            there = there / "index.html" if there.is_dir() else there
            lost = place and there in pages and unquote(place) not in pages[there].places
            if lost or not there.exists():
                found.append(f"{path.relative_to(folder.resolve())}: {address}")
    return found


def check(app: Any, exception: Exception | None) -> None:
    """Fail the build where a link is dead."""
    if exception is None and app.builder.format == "html":
        found = dead_links(Path(app.outdir))
        if found:
            raise ValueError(
                "the site: expected links that lead somewhere, got " + "; ".join(found)
            )


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
