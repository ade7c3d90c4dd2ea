# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import pytest
from PIL import ImageFont

from attnpatch.demo import fonts


class Font:
    """A font of some letters; it has one picture for all others."""

    def __init__(self, letters):
        self.letters = letters

    def getmask(self, letter):
        return letter.encode() if letter in self.letters else b"box"


@pytest.fixture
def system(monkeypatch):
    """The fonts of a system, by name."""
    found, real = {}, ImageFont.truetype

    def truetype(name, size=10, **options):
        if not isinstance(name, str):  # how Pillow opens its own
            return real(name, size)
        if name not in found:
            raise OSError("cannot open resource")
        return found[name]

    monkeypatch.setattr(ImageFont, "truetype", truetype)
    fonts.font_for.cache_clear()
    yield found
    fonts.font_for.cache_clear()


def test_english_is_drawn_with_the_same_font_everywhere(system):
    system["DejaVuSans.ttf"] = Font("cat")
    assert fonts.font_for("a cat", 20).getname() == ImageFont.load_default(20).getname()


def test_other_letters_are_drawn_with_the_first_font_that_has_them(system):
    system["DejaVuSans.ttf"] = Font("éü")
    system["msyh.ttc"] = Font("猫ü")
    assert fonts.font_for("grün", 20) is system["DejaVuSans.ttf"]
    assert fonts.font_for("猫 grün", 20) is system["msyh.ttc"]


def test_letters_that_no_font_has_leave_the_own_font(system):
    system["msyh.ttc"] = Font("猫")
    assert fonts.font_for("猫é", 20).getname() == ImageFont.load_default(20).getname()
