# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Refuses a site whose pages would load anything from another machine."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
REMOTE = re.compile(r"(?:https?:)?//")
REMOTE_IN_STYLE = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)")


class Loads(HTMLParser):
    """Gathers the addresses that a browser loads with a page, without a click."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one tag."""
        values = {name: value or "" for name, value in attrs}
        address = values.get(LOADED.get(tag, ""), "")
        if tag == "link" and values.get("rel") != "canonical":
            address = values.get("href", "")
        if REMOTE.match(address):
            self.found.append(address)
        self.found += REMOTE_IN_STYLE.findall(values.get("style", ""))


def remote_loads(folder: Path) -> list[str]:
    """List "file: address" for all that pages and styles in a folder load from elsewhere."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".html":
            page = Loads()
            page.feed(path.read_text(encoding="utf-8"))
            addresses = page.found
        elif path.suffix == ".css":
            addresses = REMOTE_IN_STYLE.findall(path.read_text(encoding="utf-8"))
        else:
            continue
        found += [f"{path.relative_to(folder)}: {address}" for address in addresses]
    return found


def check(app: Any, exception: Exception | None) -> None:
    """Fail the build where the site is not its own."""
    if exception is None and app.builder.format == "html":
        found = remote_loads(Path(app.outdir))
        if found:
            raise ValueError("the site: expected no address elsewhere, got " + ", ".join(found))


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
