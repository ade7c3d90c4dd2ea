# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Files of pictures: upright, the first frame, and errors that name the file."""

import logging
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from attnpatch.pictures import read_picture, read_pictures

ORIENTATION = 0x0112


def photo(width=40, height=24, seed=0):
    rough = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def exif(orientation):
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff"])
def test_pictures_are_read_upright(tmp_path, name, orientation):
    path = tmp_path / name
    photo().save(path, exif=exif(orientation))
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    np.testing.assert_array_equal(read_picture(path), expected)
    np.testing.assert_array_equal(read_picture(str(path)), expected)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_picture(image), expected)
        np.testing.assert_array_equal(read_picture(image.convert("RGB")), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "1", "CMYK", "HSV", "F"])
def test_any_mode_is_turned(mode):
    grey = np.random.default_rng(0).integers(0, 256, (5, 8), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray((grey / 255).astype(np.float32))
    else:
        image = Image.fromarray(np.dstack([grey] * 3)).convert(mode)
    straight = read_picture(image)
    image.getexif()[ORIENTATION] = 6
    np.testing.assert_array_equal(read_picture(image), np.rot90(straight, -1))
    assert image.size == (8, 5) and image.mode == mode


def test_xmp_says_the_orientation_too(tmp_path):
    path = tmp_path / "a.jpg"
    photo().save(path, xmp=b'<rdf:Description tiff:Orientation="8"/>', quality=100)
    assert read_picture(path).shape == (40, 24, 3)


def test_orientation_data_that_cannot_be_read(tmp_path, caplog):
    path = tmp_path / "odd.png"
    photo().save(path, exif=b"Exif\0\0XX*\0 nothing that is known")
    with caplog.at_level(logging.WARNING, "attnpatch"):
        assert read_picture(path).shape == (24, 40, 3)
    assert f"image: {path}: taken as stored, unreadable EXIF data" in caplog.text


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tiff"])
def test_first_frame_of_a_file_and_the_current_one_of_a_picture(tmp_path, name, caplog):
    path = tmp_path / name
    first, second = Image.new("RGB", (6, 4), (255, 0, 0)), Image.new("RGB", (6, 4), (0, 0, 255))
    options = {"lossless": True} if name == "a.webp" else {}
    first.save(path, save_all=True, append_images=[second], **options)
    with caplog.at_level(logging.INFO, "attnpatch"):
        assert (read_picture(path) == (255, 0, 0)).all()
    assert f"{path} has several frames or pages, the first is taken" in caplog.text
    with Image.open(path) as image:
        image.seek(1)
        assert (read_picture(image) == (0, 0, 255)).all()
        assert image.tell() == 1


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.tiff"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_files_that_are_cut_off_are_named(tmp_path, name, part):
    path = tmp_path / name
    photo(90, 70).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(OSError, match="image: expected a whole picture, got ") as caught:
        read_picture(path)
    assert str(path) in str(caught.value)


def test_pictures_of_pillow_that_are_cut_off_are_named(tmp_path):
    path = tmp_path / "cut.jpg"
    photo(90, 70).save(path)
    path.write_bytes(path.read_bytes()[:-300])
    with (
        Image.open(path) as image,
        pytest.raises(OSError, match=r"images\[1\]: .*cut\.jpg: .*trunc"),
    ):
        read_pictures([photo(), image])


def test_what_is_no_file_of_a_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        read_picture(tmp_path / "nothing.png")
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(OSError, match=r"PICTURE: expected a whole .*words\.png: no kind of pict"):
        read_picture(tmp_path / "words.png", "PICTURE")
    deep = tmp_path / "deep.tiff"
    photo().convert("I").save(deep)
    with pytest.raises(ValueError, match=r"image \(.*deep\.tiff\): .* mode 'I'"):
        read_picture(deep)


def test_arrays_need_no_pillow(monkeypatch, tmp_path):
    photo().save(tmp_path / "a.png")
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert read_pictures([np.zeros((2, 3, 3)), torch.zeros(2, 3, 3)])[1].shape == (2, 3, 3)
    with pytest.raises(ImportError, match="image: files of pictures are read by Pillow"):
        read_picture(tmp_path / "a.png")
