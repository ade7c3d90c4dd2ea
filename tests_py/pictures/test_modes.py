# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of Pillow in every mode: converted as meant, or refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attnpatch.pictures import read_picture

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = ((255, 255, 255), (0, 0, 0), (200, 30, 90))


def photo(seed=0):
    rough = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((30, 24), Image.Resampling.BICUBIC)


def reopened(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


# How far each way there and back may be off: some modes keep less than RGB.
@pytest.mark.parametrize(
    ("mode", "most"),
    [("RGB", 0), ("RGBX", 0), ("CMYK", 0), ("YCbCr", 3), ("HSV", 9), ("LAB", 24)],
)
def test_other_colour_spaces_become_rgb(mode, most):
    other = photo().convert(mode)
    read = read_picture(other)
    assert np.abs(read.astype(int) - np.asarray(photo())).max() <= most
    assert other.mode == mode


def test_grey_palettes_and_bits():
    grey = photo().convert("L")
    expected = np.dstack([np.asarray(grey)] * 3)
    np.testing.assert_array_equal(read_picture(grey), expected)
    bits = grey.convert("1")
    np.testing.assert_array_equal(read_picture(bits)[..., 1], np.asarray(bits) * 255)
    palette = photo().convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(read_picture(palette), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_sixteen_bits_are_scaled(mode):
    order = ">u2" if mode == "I;16B" else "<u2"
    wide = (LEVELS.astype(np.uint16) * 257).astype(order)
    read = read_picture(Image.frombytes(mode, (16, 16), wide.tobytes()))
    np.testing.assert_array_equal(read, np.dstack([LEVELS] * 3))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_files_of_sixteen_bits_are_scaled(kind):
    wide = Image.fromarray(LEVELS.astype(np.uint16) * 257)
    read = read_picture(reopened(wide, kind))
    np.testing.assert_array_equal(read, np.dstack([LEVELS] * 3))


def tiff(values, bits, photometric):
    """A grey TIFF file of 12 or 16 bits, as scanners and microscopes write it."""
    height, width = values.shape
    if bits == 16:
        data = values.astype("<u2").tobytes()
    else:
        pairs = values.reshape(-1, 2).astype(int)
        data = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, height), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


@pytest.mark.parametrize(("bits", "white_is_zero"), [(16, False), (16, True), (12, False)])
def test_scans_are_scaled_by_their_own_white(bits, white_is_zero):
    white = (1 << bits) - 1
    values = np.round(LEVELS / 255 * white).astype(np.uint16)
    file = tiff(white - values if white_is_zero else values, bits, 0 if white_is_zero else 1)
    read = read_picture(Image.open(io.BytesIO(file)))
    np.testing.assert_array_equal(read[..., 0], LEVELS)


def test_float_pictures_are_from_zero_to_one():
    values = (LEVELS / 255).astype(np.float32)
    for image in (Image.fromarray(values), reopened(Image.fromarray(values), "TIFF")):
        np.testing.assert_array_equal(read_picture(image)[..., 2], LEVELS)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (photo().convert("I"), "image: expected a picture whose range is known, .* mode 'I'"),
        (photo().convert("F"), r"of Pillow's mode F: expected finite values in \[0, 1\], got"),
        (Image.new("F", (2, 2), float("nan")), "of Pillow's mode F: .* got nan at row 0, column 0"),
        (reopened(photo().convert("I"), "TIFF"), "mode 'I'"),
        (Image.new("RGB", (0, 4)), r"image: expected at least one pixel, got .* \(4, 0, 3\)"),
    ],
)
def test_ranges_that_are_not_known_are_refused(image, text):
    with pytest.raises(ValueError, match=text):
        read_picture(image)


def over(rgba, background):
    """The formula: alpha times the colour, and the rest of the background."""
    alpha = rgba[..., 3:].astype(np.float64) / 255
    return rgba[..., :3] * alpha + np.asarray(background) * (1 - alpha)


@given(st.integers(0, 99), st.sampled_from(COLOURS))
@settings(max_examples=20, deadline=None)
def test_alpha_shows_the_background(seed, background):
    rgba = np.random.default_rng(seed).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    image = Image.fromarray(rgba)
    read = read_picture(image, background=background)
    assert np.abs(read - over(rgba, background)).max() <= 0.5
    # Premultiplied: colours under a low alpha have few levels, which shows as little.
    premultiplied = read_picture(image.convert("RGBa"), background=background)
    assert np.abs(premultiplied - over(rgba, background)).max() <= 2
    grey = image.convert("LA")
    expected = over(np.asarray(grey.convert("RGBA")), background)
    assert np.abs(read_picture(grey, background=background) - expected).max() <= 0.5
    premultiplied = read_picture(grey.convert("La"), background=background)
    assert np.abs(premultiplied - expected).max() <= 2


def test_transparent_is_white_unless_told():
    hidden = Image.new("RGBA", (3, 2), (10, 20, 30, 0))
    assert (read_picture(hidden) == 255).all()
    assert (read_picture(hidden, background=(1, 2, 3)) == (1, 2, 3)).all()


@pytest.mark.parametrize("kind", ["one", "many", "PA", "RGBA"])
def test_palettes_with_transparency(kind):
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.frombytes("P", (2, 2), indices.tobytes())
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    alpha = np.array([255, 0, 255])
    if kind == "many":
        alpha = np.array([255, 100, 0])
        image = reopened(image, "PNG", transparency=bytes(alpha.tolist()))
    elif kind == "RGBA":
        image.putpalette([255, 0, 0, 255, 0, 255, 0, 0, 0, 0, 255, 255], "RGBA")
    else:
        image = reopened(image, "PNG", transparency=1)
        image = image.convert("PA") if kind == "PA" else image
    rgba = np.concatenate([np.eye(3)[indices] * 255, alpha[indices][..., None]], -1)
    read = read_picture(image, background=(0, 0, 0))
    assert np.abs(read - over(rgba, (0, 0, 0))).max() <= 0.5


def png(depth, colour, row, transparent):
    """A PNG file of one row of two pixels with a colour that stands for transparent."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "shown"),
    [
        (1, 0, b"\x80", ">H 1", (0, 0, 0)),
        (2, 0, b"\x60", ">H 1", (170, 170, 170)),
        (4, 0, b"\x5a", ">H 5", (170, 170, 170)),
        (8, 0, b"\x05\x09", ">H 5", (9, 9, 9)),
        (16, 0, struct.pack(">HH", 500, 40000), ">H 500", (156, 156, 156)),
        (8, 2, bytes([1, 2, 3, 4, 5, 6]), ">3H 1 2 3", (4, 5, 6)),
        (16, 2, struct.pack(">6H", 500, 600, 700, 40000, 0, 257), ">3H 500 600 700", (156, 0, 1)),
    ],
)
def test_a_colour_that_stands_for_transparent(depth, colour, row, transparent, shown):
    form, *values = transparent.split()
    file = png(depth, colour, row, struct.pack(form, *map(int, values)))
    read = read_picture(Image.open(io.BytesIO(file)), background=(7, 8, 9))
    assert read.tolist() == [[[7, 8, 9], list(shown)]]
