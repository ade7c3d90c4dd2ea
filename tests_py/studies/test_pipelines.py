# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pipelines of diffusers: rows with prompts, seeds and steps of their own."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import attnpatch as ap
from attnpatch.hosts.diffusers import attach, fold_rows
from attnpatch.studies.batches import group_cells
from attnpatch.studies.models.pipelines import PipelineModel
from attnpatch.studies.runner import Runner
from attnpatch.studies.table import Table
from small_pipeline import make_adapter, make_encoder, make_pipeline

pytestmark = pytest.mark.slow

STYLE = {"kind": "ImagePrompt", "adapter": "adapter.safetensors", "picture": "red.png"}
ARGUMENTS = {"steps": 5, "size": 32, "guidance": 3.0, "prompt": "a"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    unet = make_pipeline(folder)
    make_adapter(folder / "adapter.safetensors", unet, make_encoder(folder / "encoder"))
    for name, colour in (("red", (255, 0, 0)), ("sea", (0, 90, 160))):
        Image.new("RGB", (50, 40), colour).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def model(folder):
    table = Table(source=str(folder / "model"), image_encoder=str(folder / "encoder"), device="cpu")
    return PipelineModel.load(table)


@pytest.mark.parametrize(
    "scheduler",
    ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"],
)
def test_rows_equal_cells_alone(folder, model, scheduler):
    """Schedulers with a memory of steps, and with noise of their own in each step."""
    kind = getattr(diffusers, scheduler)
    model.pipeline.scheduler = kind.from_config(model.pipeline.scheduler.config)
    axes = [
        {"style.weight": [0.5, 1.0], "style.window": [[0, 1], [0.5, 1]], "seed": [0, 1]},
        ap.Axes.zip({"prompt": ["a", "b c"], "negative_prompt": ["", "d"]}),
    ]
    study = ap.Study(str(folder / "model"), {"style": STYLE}, axes, ARGUMENTS, folder=folder)
    runner = Runner(model, rows=64)
    (group,) = group_cells(study.cells())
    (made,) = runner.run(group)
    assert made.shared.computed < made.shared.rows == 16 * 5
    for cell, picture in zip(made.cells, made.pictures, strict=True):
        with attach(model.pipeline, runner.maker.patches(cell)):
            alone = model.generate([cell], lambda: None)[0]
        assert np.abs(picture - alone).max() <= 1e-5
    assert len({picture.tobytes() for picture in made.pictures}) == 16


def test_rows_whose_latents_differ_are_not_taken_for_equal(model):
    """Whatever is said of them."""
    calls = []

    def all_equal(point, latent):
        calls.append(latent)
        return [0, 0, 0]

    generator = [torch.Generator().manual_seed(seed) for seed in (4, 4, 5)]
    options = {"prompt": ["a"] * 3, "num_inference_steps": 3, "height": 32, "width": 32}
    plain = model.pipeline(**options, generator=generator, output_type="np").images
    sizes = []
    hook = model.pipeline.unet.conv_in.register_forward_hook(
        lambda module, args, output: sizes.append(len(output))
    )
    generator = [torch.Generator().manual_seed(seed) for seed in (4, 4, 5)]
    with attach(model.pipeline, []), fold_rows(model.pipeline, all_equal):
        folded = model.pipeline(**options, generator=generator, output_type="np").images
    hook.remove()
    assert calls == [(16, 16)] * 3
    assert sizes == [4] * 3  # of three latents two, with and without the prompt
    assert np.abs(folded - plain).max() <= 1e-5
    assert np.abs(folded[0] - folded[2]).max() > 1e-3


def test_folding_that_does_not_fit_is_an_error(model):
    with (
        attach(model.pipeline, []),
        fold_rows(model.pipeline, lambda point, latent: [0]),
        pytest.raises(ValueError, match="folding: expected one for each of the 2 latents, got 1"),
    ):
        model.pipeline(["a", "a"], num_inference_steps=2, height=32, width=32)


def test_guidance_in_folded_rows(folder, model):
    patches = {"style": STYLE, "pag": {"kind": "PerturbedAttentionGuidance", "scale": 2.0}}
    axes = {
        "style.window": [[0, 1], [0.5, 1]],
        "pag.scale": [0.0, 2.0],
        "style.mask": [None, [0, 0, 0.5, 1]],
    }
    study = ap.Study(str(folder / "model"), patches, axes, ARGUMENTS, folder=folder)
    runner = Runner(model, rows=64)
    (group,) = group_cells(study.cells())
    (made,) = runner.run(group)
    assert made.shared.computed < made.shared.rows
    for cell, picture in zip(made.cells, made.pictures, strict=True):
        with attach(model.pipeline, runner.maker.patches(cell)):
            alone = model.generate([cell], lambda: None)[0]
        assert np.abs(picture - alone).max() <= 1e-5


def test_what_a_pipeline_does_not_take_is_an_error(folder, model):
    cell = ap.Study("m", {}, pipeline={"prompt": "a", "size": 32}).cells()[0]
    model._takes = {name: value for name, value in model._takes.items() if name != "height"}
    with pytest.raises(ValueError, match="size: expected none, which a StableDiffusionPipeline"):
        model.check(cell)


def test_sizes_are_those_of_whole_latents(model):
    (cell,) = ap.Study("m", {}, pipeline={"prompt": "a", "size": [32, 48]}).cells()
    model.check(cell)
    assert model.latent(cell) == (16, 24)
    (cell,) = ap.Study("m", {}, pipeline={"size": 33}).cells()
    with pytest.raises(ValueError, match="size: expected multiples of 2, got 33"):
        model.check(cell)


def test_every_parameter_may_be_an_axis(folder, model):
    """Drawn at random, all at once: each cell is what it is alone."""
    make_adapter(folder / "other.safetensors", model.pipeline.unet, 24)
    Image.linear_gradient("L").resize((16, 16)).save(folder / "mask.png")
    several = {
        "prompt": ["a", "b c"],
        "negative_prompt": ["", "d"],
        "seed": {"low": 0, "high": 9, "integer": True},
        "guidance": [2.0, 4.0],
        "steps": [2, 3],
        "size": [32, [32, 48]],
        "style.weight": {"low": 0.1, "high": 2.0, "log": True},
        "style.preset": ["linear", "ease in"],
        "style.curve": [[], [[0.3, 0], [0.6, 1]]],
        "style.window": [[0.0, 1.0], [0.4, 1.0]],
        "style.mask": [None, "mask.png", [0, 0, 0.5, 1]],
        "style.adapter": ["adapter.safetensors", "other.safetensors"],
        "style.picture": ["red.png", "sea.png", ["red.png", "sea.png"]],
    }
    axes = ap.Axes.random(several, count=16, seed=3)
    study = ap.Study(str(folder / "model"), {"style": STYLE}, axes, folder=folder)
    assert ap.Study.from_toml(study.to_toml(), folder) == study and len(study) == 16
    drawn = {name: {cell.place[name] for cell in study} for name in several}
    assert all(len(values) > 1 for values in drawn.values())
    runner = Runner(model, rows=64)
    together = []
    for group in group_cells(study.cells()):
        for made in runner.run(group):
            together.append(len(made.cells))
            for cell, picture in zip(made.cells, made.pictures, strict=True):
                with attach(model.pipeline, runner.maker.patches(cell)):
                    alone = model.generate([cell], lambda: None)[0]
                assert np.abs(picture - alone).max() <= 1e-5
    assert sum(together) == 16 and max(together) > 1
