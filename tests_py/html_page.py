# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a display as a browser would: elements, attributes, text."""

from html.parser import HTMLParser

VOID = {"br", "hr", "img"}


class Page(HTMLParser):
    """What a piece of HTML holds; ValueError where an element is not closed in order."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.plain, self._open = [], "", "", []
        self.feed(html)
        self.close()
        if self._open:
            raise ValueError(f"not closed: {self._open}")

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self._open.append((name, dict(attributes).get("class")))

    def handle_endtag(self, name):
        opened, _ = self._open.pop()
        if opened != name:
            raise ValueError(f"{opened} is closed by {name}")

    def handle_data(self, data):
        if ("pre", "attnpatch-plain") in self._open:
            self.plain += data
        elif self._open[-1:] != [("style", None)]:
            self.text += data

    def all(self, name, kind=None):
        """Attributes of all elements of a name, and of a class."""
        return [
            attributes
            for found, attributes in self.elements
            if found == name and (kind is None or kind in (attributes.get("class") or "").split())
        ]
