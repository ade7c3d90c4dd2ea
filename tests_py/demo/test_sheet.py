# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

import pytest
from PIL import Image

from attnpatch.demo.sheet import LINE, MARGIN, SCALE, Section, Tile, contact_sheet
from attnpatch.demo.table import format_table


def checkers(size=32):
    picture = Image.new("L", (size, size))
    picture.putdata([255 * ((x + y) % 2) for y in range(size) for x in range(size)])
    return picture


def test_small_pictures_are_enlarged_without_blur():
    section = Section("Title", "text", ((Tile(checkers(), "caption"),),))
    sheet = contact_sheet("Sheet", "subtitle", (section,), tile=64)
    left, top = MARGIN * SCALE, (96 + 60) * SCALE
    shown = sheet.crop((left, top, left + 64 * SCALE, top + 64 * SCALE))
    assert {colour for _, colour in shown.getcolors()} == {(0, 0, 0), (255, 255, 255)}
    assert shown.resize((32, 32), Image.Resampling.NEAREST).convert("L").tobytes() == (
        checkers().tobytes()
    )


def test_a_sheet_has_room_for_every_row():
    tile = Tile(checkers(), "caption")
    small = contact_sheet("Sheet", "", (Section("a", "", ((tile,),)),), tile=64)
    tall = contact_sheet("Sheet", "", (Section("a", "", ((tile,), (tile, tile))),), tile=64)
    wide = contact_sheet("Sheet", "", (Section("a", "", ((tile,) * 12,)),), tile=64)
    assert tall.height > small.height + 64 * SCALE
    assert wide.width >= (2 * MARGIN + 12 * 64) * SCALE


def test_a_sheet_has_room_for_every_line_of_a_note():
    def sheet(*notes):
        row = tuple(Tile(checkers(), "caption", note) for note in notes)
        return contact_sheet("Sheet", "", (Section("a", "", (row, row)),), tile=64)

    short, long = sheet("a", "a"), sheet("a", "a\nb\nc")
    assert long.height == short.height + 2 * 2 * LINE * SCALE
    right = long.crop((MARGIN * SCALE + 78 * SCALE, 0, long.width, long.height))
    assert (
        right.tobytes()
        != sheet("a", "a\nb\nd")
        .crop((MARGIN * SCALE + 78 * SCALE, 0, long.width, long.height))
        .tobytes()
    )


def test_table_is_aligned():
    text = format_table(["variant", "ms"], [["plain", "1.0"], ["weight 1", "12.5"]])
    assert text.splitlines() == [
        "variant     ms",
        "────────  ────",
        "plain      1.0",
        "weight 1  12.5",
    ]


def test_table_names_an_odd_row():
    with pytest.raises(ValueError, match=r"expected \d cells, got 1"):
        format_table(["a", "b"], [["x"]])
