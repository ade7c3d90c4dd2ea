# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""`attnpatch demo --model`, on a tiny pipeline with random weights."""

import argparse

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from attnpatch_command import face
from attnpatch_command.cli import main
from small_pipeline import CONTEXT, make_own, site_projections


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return make_own(tmp_path_factory.mktemp("own"))


def demo(folder, *arguments):
    own = ["--model", folder / "model", "--adapter", folder / "adapter.safetensors"]
    own += ["--image", folder / "red.png", folder / "sea.png"]
    own += ["--image-encoder", folder / "encoder", "--output", folder / "sheet.png"]
    return main(["demo", *map(str, own), *arguments])


@pytest.mark.slow
def test_a_users_pipeline_runs(own, capsys):
    assert demo(own, "--steps", "3", "--size", "32", "--weight", "0") == 1
    output = capsys.readouterr()
    assert "no effect" in output.err
    assert [line for line in output.out.splitlines() if line.startswith("mask left half")]
    with Image.open(own / "sheet.png") as sheet:
        assert sheet.width > 800


@pytest.mark.slow
def test_image_prompts_change_a_users_pictures(own):
    from attnpatch.demo.own_model import OwnModel, OwnOptions
    from attnpatch.demo.runner import StepSchedule, change
    from attnpatch.demo.variants import PLAIN, Variant

    model = OwnModel(
        OwnOptions(
            model=str(own / "model"),
            adapter=str(own / "adapter.safetensors"),
            images=(str(own / "red.png"),),
            image_encoder=str(own / "encoder"),
            prompt="a",
            steps=3,
            size=32,
        )
    )
    plain = model.generate(PLAIN, StepSchedule())
    again = model.generate(PLAIN, StepSchedule())
    prompted = model.generate(Variant("weight", "weight 1", 1.0), StepSchedule())
    assert change(again, plain) == (0.0, 0.0)
    assert min(change(prompted, plain)) > 0.0
    assert change(model.generate(PLAIN, StepSchedule()), plain) == (0.0, 0.0)


def test_references_are_read_upright_and_square(tmp_path):
    from attnpatch.demo.own_model import read_references

    picture = Image.new("RGB", (50, 40), (0, 90, 160))
    picture.paste((255, 0, 0), (0, 0, 25, 40))
    sideways = picture.transpose(Image.Transpose.ROTATE_90)
    sideways.getexif()[0x0112] = 6  # EXIF's orientation: a quarter to the right
    sideways.save(tmp_path / "phone.png", exif=sideways.getexif())
    (read,) = read_references([str(tmp_path / "phone.png")])
    assert read.size == (40, 40) and read.tobytes() == picture.crop((5, 0, 45, 40)).tobytes()
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_references([str(tmp_path / "none.png")])


def make_identity_adapter(path, unet):
    """An adapter of InstantID's structure."""

    def linear(rows, columns):
        return torch.randn(rows, columns) / columns**0.5

    state = {"latents": torch.randn(1, 16, CONTEXT)}
    for name, rows, columns in (("proj_in", CONTEXT, 512), ("proj_out", CONTEXT, CONTEXT)):
        state |= {f"{name}.weight": linear(rows, columns), f"{name}.bias": torch.zeros(rows)}
    norms = ["norm_out", "layers.0.0.norm1", "layers.0.0.norm2", "layers.0.1.0"]
    for name in norms:
        state |= {f"{name}.weight": torch.ones(CONTEXT), f"{name}.bias": torch.zeros(CONTEXT)}
    sizes = {"0.to_q": (64, CONTEXT), "0.to_kv": (128, CONTEXT), "0.to_out": (CONTEXT, 64)}
    sizes |= {"1.1": (64, CONTEXT), "1.3": (CONTEXT, 64)}
    state |= {f"layers.0.{name}.weight": linear(*size) for name, size in sizes.items()}
    state = {f"image_proj.{name}": tensor for name, tensor in state.items()}
    state |= site_projections(unet)
    save_file(state, path)


def test_an_identity_changes_a_users_pictures(own):
    """What `attnpatch face --model` shows."""
    from attnpatch.demo import face_model
    from attnpatch.demo.own_model import OwnOptions, load_pipeline
    from attnpatch.demo.runner import change
    from attnpatch.faces import Face

    file = own / "identity.safetensors"
    unet = load_pipeline(OwnOptions(str(own / "model"), "", ())).unet
    make_identity_adapter(file, unet)
    parser = argparse.ArgumentParser()
    face.add_arguments(parser)
    options = ["--model", own / "model", "--adapter", file, "--steps", "3", "--prompt", "a"]
    options += ["--device", "cpu"]
    arguments = parser.parse_args([str(word) for word in options])
    embedding = 20 * torch.randn(512, generator=torch.Generator().manual_seed(1)).numpy()
    found = Face([0, 0, 9, 9], 1.0, [[0.0, 0.0]] * 5, embedding)
    plain, changed = face_model.identity_section(found, arguments).rows[0]
    assert "ms a step" in plain.note and "ms a step" in changed.note
    assert min(change([changed.picture], [plain.picture])) > 0


def test_a_single_file_needs_somebody_who_knows_its_family(tmp_path):
    from attnpatch.demo.own_model import OwnOptions, load_pipeline

    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        ValueError, match=r"--model: expected an adapter, or the family, .*model\.saf"
    ):
        load_pipeline(OwnOptions(str(tmp_path / "model.safetensors"), "", ()))


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks`:UserWarning")  # diffusers'
@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("model.safetensors", "a text", "Unable to load weights"),
        ("folder", None, "Error no file named model_index.json"),
        ("folder/model_index.json", "{}", "it lacks '_class_name'"),
        ("nobody/nothing", "", "it is not on this machine, and the hub was not reached"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named_in_one_line(
    tmp_path, monkeypatch, name, text, reason
):
    from attnpatch.demo.own_model import OwnOptions, load_pipeline

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "folder").mkdir()
    if text:
        (tmp_path / name).write_text(text)
    source = name.removesuffix("/model_index.json")
    expected = "a model as a file, as a folder of diffusers or as an ID of the hub"
    with pytest.raises(ValueError) as error:
        load_pipeline(OwnOptions(source, "", ()), "sd1")
    assert str(error.value).startswith(f"--model: expected {expected}, got {source}: {reason}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("nobody/nothing", "nobody/nothing"),
        (None, "none, and that of the adapter is nobody/adapters/encoder"),
    ],
)
def test_an_encoder_that_cannot_be_loaded_is_named(monkeypatch, own, given, told):
    from attnpatch.demo import own_model

    known = given or "nobody/adapters", {} if given else {"subfolder": "encoder"}
    monkeypatch.setattr(own_model, "encoder_source", lambda *_: known)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    options = own_model.OwnOptions("", str(own / "adapter.safetensors"), (), given)
    with pytest.raises(
        ValueError, match=r"^--image-encoder: expected a CLIP vision model"
    ) as error:
        own_model.load_encoder(own_model.load_adapter(options), options)
    reason = "it is not on this machine, and the hub was not reached"
    assert str(error.value).endswith(f", got {told}: {reason}")


def test_a_file_that_is_no_adapter_is_named_with_its_argument(own):
    from attnpatch.demo.own_model import OwnOptions, load_adapter

    with pytest.raises(ValueError, match=r"^--adapter: red\.png: it is no safetensors and no"):
        load_adapter(OwnOptions("", str(own / "red.png"), ()))
