# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""A labelled contact sheet of pictures, drawn with Pillow."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from attnpatch.demo.fonts import font_for

PAGE = (20, 22, 27)
INK = (236, 238, 242)
SOFT = (150, 156, 168)
RULE = (52, 56, 66)
ACCENT = (255, 176, 59)

MARGIN = 40
GAP = 14
CAPTION = 26  # the room under a picture, beside that of its notes
LINE = 14
SCALE = 2  # drawn at twice the size of the numbers here, so that small type stays sharp


@dataclass(frozen=True)
class Tile:
    """One picture with its caption, and a note of some lines; `reference` frames it as an input."""

    picture: Image.Image
    caption: str
    note: str = ""
    reference: bool = False


@dataclass(frozen=True)
class Section:
    """Rows of tiles under a heading."""

    title: str
    text: str
    rows: tuple[tuple[Tile, ...], ...]


def contact_sheet(
    title: str, subtitle: str, sections: tuple[Section, ...], tile: int = 104
) -> Image.Image:
    """Draw a sheet.

    Parameters
    ----------
    title, subtitle : str
    sections : tuple of Section
    tile : int
        Edge of a picture in points; the sheet has two pixels a point.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    columns = max(len(row) for section in sections for row in section.rows)
    width = max(2 * MARGIN + columns * (tile + GAP) - GAP, 640)
    height = 96 + sum(_section_height(section, tile) for section in sections) + MARGIN // 2
    page = Image.new("RGB", (width * SCALE, height * SCALE), PAGE)
    pen = _Pen(page)
    pen.text((MARGIN, 30), title, 24, INK)
    pen.text((MARGIN, 64), subtitle, 12, SOFT)
    top = 96
    for section in sections:
        _draw_section(pen, section, top, width, tile)
        top += _section_height(section, tile)
    return page


class _Pen:
    """Draws in points on a page of `SCALE` pixels a point."""

    def __init__(self, page: Image.Image) -> None:
        self.page = page
        self.draw = ImageDraw.Draw(page)

    def text(
        self, corner: tuple[float, float], text: str, size: int, colour: tuple[int, int, int]
    ) -> None:
        font = font_for(text, size * SCALE)
        self.draw.text((corner[0] * SCALE, corner[1] * SCALE), text, fill=colour, font=font)

    def width(self, text: str, size: int) -> float:
        return self.draw.textlength(text, font_for(text, size * SCALE)) / SCALE

    def rule(self, left: float, right: float, top: float) -> None:
        line = [(left * SCALE, top * SCALE), (right * SCALE, top * SCALE)]
        self.draw.line(line, fill=RULE, width=SCALE)

    def frame(self, left: float, top: float, size: float, colour: tuple[int, int, int]) -> None:
        box = [(left - 2) * SCALE, (top - 2) * SCALE]
        box += [(left + size + 2) * SCALE - 1, (top + size + 2) * SCALE - 1]
        self.draw.rectangle(box, outline=colour, width=SCALE + 1)

    def picture(self, left: float, top: float, size: int, picture: Image.Image) -> None:
        edge = size * SCALE
        small = max(picture.size) < edge
        method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        part = edge / max(picture.size)
        width, height = (max(1, round(side * part)) for side in picture.size)
        corner = int(left * SCALE) + (edge - width) // 2, int(top * SCALE) + (edge - height) // 2
        self.page.paste(picture.convert("RGB").resize((width, height), method), corner)


def _section_height(section: Section, tile: int) -> int:
    return 62 + len(section.rows) * _row_height(section, tile)


def _row_height(section: Section, tile: int) -> int:
    """Return the height of each row: that of the longest note."""
    lines = max((item.note.count("\n") + 1 for row in section.rows for item in row), default=1)
    return tile + CAPTION + LINE * lines


def _draw_section(pen: _Pen, section: Section, top: int, width: int, tile: int) -> None:
    pen.rule(MARGIN, width - MARGIN, top)
    pen.text((MARGIN, top + 12), section.title, 16, INK)
    pen.text((MARGIN, top + 34), section.text, 12, SOFT)
    for number, row in enumerate(section.rows):
        row_top = top + 60 + number * _row_height(section, tile)
        for column, item in enumerate(row):
            left = MARGIN + column * (tile + GAP)
            pen.picture(left, row_top, tile, item.picture)
            if item.reference:
                pen.frame(left, row_top, tile, ACCENT)
            colour = ACCENT if item.reference else INK
            pen.text((left, row_top + tile + 4), _fit(pen, item.caption, 11, tile), 11, colour)
            for place, line in enumerate(item.note.split("\n")):
                line_top = row_top + tile + 18 + LINE * place
                pen.text((left, line_top), _fit(pen, line, 10, tile), 10, SOFT)


def _fit(pen: _Pen, text: str, size: int, room: float) -> str:
    """Shorten a text with an ellipsis until it fits."""
    if pen.width(text, size) <= room:
        return text
    while text and pen.width(text + "…", size) > room:
        text = text[:-1]
    return text + "…"
