# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Where the networks are found, and what bad files lead to."""

import random
import shutil
import sys
import zipfile
from types import SimpleNamespace

import networks
import numpy as np
import pytest

from attnpatch import _vision
from attnpatch.faces import FaceAnalysis, FaceFiles, find_face_files
from attnpatch.faces.files import FOLDER_VARIABLE


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No models of the user's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, "folder_paths", raising=False)
    return tmp_path / "home"


def put(pack, *folders):
    """Copy the pack's files to a folder."""
    shutil.copytree(pack, folders[0].joinpath(*folders[1:]))


@pytest.mark.parametrize(
    "place", ["models/antelopev2", "antelopev2", "models/antelopev2/antelopev2"]
)
def test_packs_are_found_where_users_have_them(place, pack, home, tmp_path, monkeypatch):
    put(pack, home / ".insightface", place)
    assert place in find_face_files("antelopev2").source
    shutil.move(home / ".insightface", tmp_path / "elsewhere")
    assert place in find_face_files("antelopev2", folders=[tmp_path / "elsewhere"]).source
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "elsewhere"))
    assert place in find_face_files("antelopev2").source


def test_packs_are_found_in_comfyui(pack, tmp_path, monkeypatch):
    put(pack, tmp_path / "ComfyUI/models/insightface/models/antelopev2")
    paths = SimpleNamespace(models_dir=tmp_path / "ComfyUI/models", folder_names_and_paths={})
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    assert "ComfyUI" in find_face_files().source


@pytest.mark.parametrize("inner", ["", "antelopev2/"])
def test_zip_file_as_downloaded(inner, pack, home):
    folder = home / ".insightface/models"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "antelopev2.zip", "w") as packed:
        for file in pack.iterdir():
            packed.write(file, inner + file.name)
    assert FaceAnalysis("antelopev2").detect(networks.draw_discs(90, 90, [(45, 45, 20)]))
    assert FaceAnalysis(folder / "antelopev2.zip").source.endswith("antelopev2.zip")


def test_files_of_other_names_are_told_by_what_they_hold(tmp_path, detector, recogniser):
    (tmp_path / "a.onnx").write_bytes(recogniser)
    (tmp_path / "b.onnx").write_bytes(b"broken")
    (tmp_path / "c.onnx").write_bytes(detector)
    found = find_face_files(tmp_path)
    assert bytes(found.detector) == detector and bytes(found.recogniser) == recogniser


def test_errors_list_what_was_tried_and_found(home, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        find_face_files("buffalo_l", folders=[tmp_path / "mine"])
    for place in (tmp_path / "mine/models/buffalo_l", home / ".insightface/models/buffalo_l.zip"):
        assert f"{place}: not there" in str(error.value)
    (tmp_path / "empty.zip").write_bytes(b"PK no zip")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/genderage.onnx").write_bytes(b"")
    with pytest.raises(
        FileNotFoundError, match=r"no detector; genderage\.onnx.*it holds genderage"
    ):
        find_face_files(tmp_path / "pack")
    with pytest.raises(FileNotFoundError, match="no zip file that can be read"):
        find_face_files(tmp_path / "empty.zip")


def test_a_size_is_written_into_the_file(detector):
    assert _vision.describe_onnx(detector)["input_dims"] == [1, 3, -1, -1]
    fixed = _vision.fix_onnx_input(detector, [1, 3, 320, 640])
    known = _vision.describe_onnx(fixed)
    assert known["input_dims"] == [1, 3, 320, 640] and known["outputs"] == list(networks.OUTPUTS)


def test_networks_of_other_kinds_are_refused(detector, recogniser):
    with pytest.raises(ValueError, match="nine outputs"):
        _vision.FaceDetector(recogniser)
    with pytest.raises(ValueError, match="one embedding"):
        _vision.FaceRecogniser(detector)
    with pytest.raises(ValueError, match="bytes"):
        _vision.FaceDetector(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="here: detector: it is"):
        FaceAnalysis(FaceFiles(b"broken", None, "here"))


def damage(content, chance):
    """Change bytes outside of large weights, cut the file, or write over parts of it."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 4])):
        if chance.random() < 0.1:
            del data[chance.randrange(len(data)) :]
            break
        place = chance.randrange(len(data))
        data[place] = chance.choice([0, 1, 2, 127, 128, 255, chance.randrange(256)])
    return bytes(data) or b"\0"


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_give_an_error_or_a_network(seed):
    """Never a crash. The same with all of OpenCV under it was tried for thousands of files."""
    chance = random.Random(seed)
    detector = networks.make_detector(chain=True)
    recogniser = networks.make_recogniser(size=112, values=4)
    picture = networks.draw_discs(64, 64, [(32, 32, 20)])
    points = np.array([(20, 20), (40, 20), (30, 30), (22, 40), (38, 40)], np.float32)
    errors = 0
    for _ in range(40):
        try:
            _vision.FaceDetector(damage(detector, chance)).find(picture, [64], [0.0], 0.5)
            _vision.FaceRecogniser(damage(recogniser, chance)).embed(picture, points)
        except (ValueError, MemoryError):
            errors += 1
    assert errors > 0
