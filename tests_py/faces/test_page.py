# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""`attnpatch face`: the page of a photograph, its numbers, and what it says where it can not."""

import importlib.util

import networks
import numpy as np
import pytest
import torch
from PIL import Image

from attnpatch.demo import face_model, face_page, narrow_sdxl
from attnpatch.engine import layer_table
from attnpatch.hosts.diffusers import read_layer_table
from attnpatch_command.cli import main


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few steps of small latents."""
    monkeypatch.setattr(face_model, "_ROUNDS", 1)
    for module in (face_model, narrow_sdxl):
        monkeypatch.setattr(module, "SIDE", 16)


@pytest.fixture
def sections(monkeypatch):
    """What the latest page showed."""
    shown = []
    draw = face_page.contact_sheet

    def spy(title, subtitle, sections, tile):
        shown[:] = [subtitle, *sections]
        return draw(title, subtitle, sections, tile)

    monkeypatch.setattr(face_page, "contact_sheet", spy)
    return shown


def captions(section):
    return [tile.caption for row in section.rows for tile in row]


@pytest.mark.slow
def test_page_of_a_photograph(tmp_path, pack, capsys, sections):
    Image.fromarray(networks.draw_discs(200, 240, [(90, 100, 40)])).save(tmp_path / "photo.png")
    output = tmp_path / "out" / "page.png"
    state = torch.get_rng_state()
    options = ["--models", str(pack), "--output", str(output)]
    assert main(["face", str(tmp_path / "photo.png"), *options]) == 0
    assert torch.equal(state, torch.get_rng_state())
    assert f"Page: {output}" in capsys.readouterr().out
    with Image.open(output) as page:
        colours = page.convert("RGB").getcolors(page.width * page.height)
        assert page.width > 800
    assert len(colours) > 1000
    subtitle, faces, identity = sections
    assert subtitle.startswith("photo.png; networks: ") and str(pack) in subtitle
    assert captions(faces) == ["found", "aligned", "keypoints"]
    assert captions(identity)[:2] == ["plain", "with the identity"]
    notes = [tile.note for tile in identity.rows[0]]
    assert all("ms a step" in notes[i] for i in (0, 1, 3))


@pytest.mark.slow
def test_page_without_arguments(tmp_path, monkeypatch, mtcnn, astronaut, sections):
    """A real photograph and learned weights, which other packages bring."""
    monkeypatch.chdir(tmp_path)
    assert main(["face"]) == 0
    assert (tmp_path / "out" / "face.png").stat().st_size > 10_000
    subtitle, faces, _ = sections
    assert "NASA, public domain" in subtitle and "no recogniser" in subtitle
    _, aligned, _ = faces.rows[0]
    best = mtcnn.get(astronaut)[0]
    wanted = face_page.align_face(astronaut, best, 224)
    assert np.array_equal(np.asarray(aligned.picture), wanted)


@pytest.mark.slow
def test_a_sideways_photograph_is_shown_upright(tmp_path, pack, sections):
    upright = networks.draw_discs(200, 240, [(90, 100, 40)])
    sideways = Image.fromarray(np.rot90(upright))
    sideways.getexif()[0x0112] = 6  # EXIF's orientation: a quarter to the right
    faces = []
    for name, picture in (("upright.png", Image.fromarray(upright)), ("phone.png", sideways)):
        picture.save(tmp_path / name, exif=picture.getexif())
        options = ["--models", str(pack), "--output", str(tmp_path / "page.png")]
        assert main(["face", str(tmp_path / name), *options]) == 0
        faces.append([tile.picture.tobytes() for tile in sections[1].rows[0]])
    assert faces[0] == faces[1]


def test_without_what_other_packages_bring(tmp_path, monkeypatch, capsys, pack):
    find = importlib.util.find_spec
    missing = ("skimage", "onnx", "facenet_pytorch")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else find(name)
    )
    assert main(["face", "--models", str(pack)]) == 1
    assert "picture: give one, or install scikit-image" in capsys.readouterr().err
    Image.new("RGB", (64, 48)).save(tmp_path / "dark.png")
    assert main(["face", str(tmp_path / "dark.png")]) == 1
    assert "--models: give a pack of insightface" in capsys.readouterr().err


def test_errors_say_the_reason(tmp_path, pack, capsys):
    Image.new("RGB", (64, 48)).save(tmp_path / "dark.png")
    assert main(["face", str(tmp_path / "dark.png"), "--models", str(pack)]) == 1
    assert "picture 0 (64 × 48) shows no face" in capsys.readouterr().err
    nowhere = str(tmp_path / "none")
    assert main(["face", str(tmp_path / "dark.png"), "--models", nowhere]) == 1
    assert "attnpatch face: --models: face models: no detector" in capsys.readouterr().err
    (tmp_path / "cut.png").write_bytes((tmp_path / "dark.png").read_bytes()[:60])
    assert main(["face", str(tmp_path / "cut.png"), "--models", str(pack)]) == 1
    assert "picture: expected a whole picture, got " in (error := capsys.readouterr().err)
    assert str(tmp_path / "cut.png") in error


def test_the_stand_in_follows_from_the_face():
    crops = [networks.draw_discs(112, 112, [(56, 56, 30)], seed=seed) for seed in (0, 0, 1)]
    one, same, other = (face_page._stand_in(crop) for crop in crops)
    assert one.shape == (512,) and np.array_equal(one, same) and not np.allclose(one, other)


def test_the_narrow_model_has_sdxls_layers_and_masks_stay_in_their_half(monkeypatch):
    monkeypatch.setattr(face_model, "_map", lambda values: values)
    unet = narrow_sdxl.make_unet()
    names = [layer.name for layer in read_layer_table(unet)]
    assert names == [layer.name for layer in layer_table("sdxl")]
    assert narrow_sdxl.make_adapter(unet).kind == "instantid"
    face = face_page.Face([0, 0, 9, 9], 1.0, np.zeros((5, 2), np.float32), np.ones(512, np.float32))
    _, _, whole, masked = face_model._narrow(face).rows[0]
    masked, whole = (
        tile.picture[:, :8].mean() / tile.picture[:, 8:].mean() for tile in (masked, whole)
    )
    assert masked > 1.2 * whole  # left to right
