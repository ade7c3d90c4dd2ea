# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""`attnpatch demo --model`, on a tiny pipeline with random weights."""

import argparse

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from attnpatch.demo import cli
from small_pipeline import CONTEXT, make_own, site_projections


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return make_own(tmp_path_factory.mktemp("own"))


def demo(folder, *arguments):
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    own = ["--model", folder / "model", "--adapter", folder / "adapter.safetensors"]
    own += ["--image", folder / "red.png", folder / "sea.png"]
    own += ["--image-encoder", folder / "encoder", "--output", folder / "sheet.png"]
    return cli.run(parser.parse_args([*map(str, own), *arguments]))


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
    from attnpatch.demo import face_cli, face_model
    from attnpatch.demo.own_model import OwnOptions, load_pipeline
    from attnpatch.demo.runner import change
    from attnpatch.faces import Face

    file = own / "identity.safetensors"
    unet = load_pipeline(OwnOptions(str(own / "model"), "", ())).unet
    make_identity_adapter(file, unet)
    parser = argparse.ArgumentParser()
    face_cli.add_arguments(parser)
    options = ["--model", own / "model", "--adapter", file, "--steps", "3", "--prompt", "a"]
    options += ["--device", "cpu"]
    arguments = parser.parse_args([str(word) for word in options])
    embedding = 20 * torch.randn(512, generator=torch.Generator().manual_seed(1)).numpy()
    face = Face([0, 0, 9, 9], 1.0, [[0.0, 0.0]] * 5, embedding)
    plain, changed = face_model.identity_section(face, arguments).rows[0]
    assert "ms a step" in plain.note and "ms a step" in changed.note
    assert min(change([changed.picture], [plain.picture])) > 0


def test_a_single_file_needs_somebody_who_knows_its_family(tmp_path):
    from attnpatch.demo.own_model import OwnOptions, load_pipeline

    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        ValueError, match=r"model: expected an adapter, or the family, .*model\.saf"
    ):
        load_pipeline(OwnOptions(str(tmp_path / "model.safetensors"), "", ()))
