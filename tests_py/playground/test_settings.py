# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What people may choose, and what is refused."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from attnpatch.playground.fields import painted, read_fields
from attnpatch.playground.settings import (
    LONGEST_EDGE,
    MOST_PIXELS,
    PromptSettings,
    Settings,
    read_upload,
    to_mask,
)

PICTURE = Image.new("RGB", (4, 3), (255, 0, 0))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("steps", 1, "steps: expected 2 to 100, got 1"),
        ("steps", 10**9, "steps: expected 2 to 100"),
        ("seed", -1, "seed: expected 0 to"),
        ("size", 4096, "size: expected 32 to 2048, got 4096"),
        ("size", 36, "size: expected a multiple of 8, got 36"),
        ("guidance", 31.0, "guidance: expected 0 to 30"),
        ("sag", -0.5, "sag: expected 0 to 20"),
        ("pag", float("nan"), "pag: expected a finite number"),
        ("text", "a" * 2001, "text: expected up to 2000 characters, got 2001"),
    ],
)
def test_what_is_out_of_range_is_named(field, value, said):
    with pytest.raises(ValueError, match=said):
        Settings(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 2.5),
        ("seed", True),
        ("sag", "1"),
        ("guidance", "abc"),
        ("guidance", [1]),
        ("text", 3),
        ("negative", None),
        ("reduction", ["a"]),
    ],
)
def test_what_is_no_number_is_named(field, value):
    with pytest.raises(TypeError, match=f"{field}: expected a"):
        Settings(**{field: value})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight": 9}, "weight: expected -2 to 3, got 9"),
        ({"layers": ["loud"]}, r"layers: expected one of linear, .*, got \['loud'\]"),
        ({"weight": "much"}, "weight: expected a number, got 'much'"),
        ({"start": "now"}, "start: expected a number, got 'now'"),
        ({"layers": "loud"}, "layers: expected one of linear, .*, got 'loud'"),
        ({"start": 0.6, "end": 0.5}, "start: expected at most the end"),
    ],
)
def test_prompts_are_checked(options, said):
    with pytest.raises((TypeError, ValueError), match=said):
        PromptSettings(PICTURE, **options)


def test_an_upload_is_read_upright_and_not_too_large(tmp_path):
    wide = Image.new("RGB", (3 * LONGEST_EDGE, 30), (0, 90, 160))
    wide.getexif()[0x0112] = 6  # EXIF's orientation: a quarter to the right
    wide.save(tmp_path / "a.jpg", exif=wide.getexif())
    read = read_upload(tmp_path / "a.jpg", "reference 1")
    assert read.mode == "RGB" and read.size == (10, LONGEST_EDGE)


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_head(width, height):
    """A PNG that only says its size."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello", "reference 2: expected a picture, got bad.png"),
        (b"", "reference 2: expected a picture, got bad.png"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "expected a picture, got bad.png"),
        (png_head(9000, 9000), "expected at most 50 million pixels, got 9000 × 9000"),
        (png_head(10**6, 10**6), "reference 2: expected a"),
        (png_head(20, 20), "reference 2: expected a whole picture, got a damaged one"),
    ],
    ids=["text", "nothing", "svg", "large", "bomb", "cut off"],
)
def test_a_bad_upload_is_named_without_its_folder(tmp_path, content, said):
    assert MOST_PIXELS == 50_000_000
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        read_upload(tmp_path / "bad.png", "reference 2")
    assert str(tmp_path) not in str(error.value)


def test_a_mask_is_what_any_layer_covers():
    first, second = np.zeros((2, 4, 6, 4), np.uint8)
    first[0, 1] = (0, 0, 0, 255)  # black paint covers, too
    second[2, 3] = (255, 255, 255, 128)
    mask = painted({"layers": [Image.fromarray(first), Image.fromarray(second)]})
    wanted = torch.zeros(4, 6)
    wanted[0, 1], wanted[2, 3] = 1, 128 / 255
    assert torch.equal(to_mask(mask), wanted)


@pytest.mark.parametrize(
    "editor", [None, {}, {"layers": []}, {"layers": [Image.new("RGBA", (4, 4))]}]
)
def test_nothing_painted_is_no_mask(editor):
    assert painted(editor) is None


def test_fields_become_settings(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    empty = {"picture": None, "weight": 9.0, "mask": None}  # not looked at: there is no picture
    given = {
        "picture": str(tmp_path / "a.png"),
        "weight": 1,
        "layers": "ease in",
        "start": 0.1,
        "end": None,
        "mask": None,
    }
    settings = read_fields([empty, given], {"text": "bag", "steps": 7.0, "seed": None, "sag": 0.5})
    (prompt,) = settings.prompts
    assert prompt.picture.tobytes() == PICTURE.tobytes()
    assert (prompt.weight, prompt.layers, prompt.start, prompt.end) == (1, "ease in", 0.1, 1.0)
    assert settings == Settings((prompt,), text="bag", steps=7, sag=0.5)


def test_an_error_says_which_reference(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    fields = {"picture": str(tmp_path / "a.png"), "mask": None}
    with pytest.raises(ValueError, match=r"^reference 2: weight: expected"):
        read_fields([fields, {**fields, "weight": 5}], {})
    with pytest.raises(TypeError, match=r"^reference 1: weight: expected a number, got 'x'"):
        read_fields([{**fields, "weight": "x"}, fields], {})
