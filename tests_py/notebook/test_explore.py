# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An interactive cell on the package's model, its widgets moved as a notebook moves them."""

import importlib.util
import threading

import numpy as np
import pytest
import torch

import attnpatch as ap
from attnpatch.demo.clothes import load_clothes
from attnpatch.demo.narrow_sdxl import make_adapter, make_unet
from html_page import Page

pytest.importorskip("ipywidgets")

LONG = 300  # seconds until a test gives up


@pytest.fixture(scope="module")
def clothes():
    return load_clothes()


@pytest.fixture(scope="module")
def stack(clothes):
    prompt = ap.ImagePrompt.from_pictures(clothes.adapter, clothes.pictures[1], clothes.encoder)
    return ap.PatchStack([prompt, ap.SelfAttentionGuidance(0.5), ap.SlothfulAttention()])


@pytest.fixture
def explore(clothes):
    cells = []

    def make(*arguments, **options):
        cells.append(ap.explore(clothes.pipeline, *arguments, steps=2, **options))
        return cells[-1]

    yield make
    for cell in cells:
        cell.close()


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_a_cell_shows_pictures_without_and_with_and_leaves_the_pipeline_alone(
    clothes, stack, explore
):
    cell = explore(stack, prompt="bag")
    assert cell.wait(LONG) and cell.error is None
    assert cell.stack == stack
    assert not ap.attached(clothes.pipeline)
    page = Page(cell._view.value)
    assert [image["alt"] for image in page.all("img")] == ["without", "with"]
    assert "2 steps in" in cell._status.value
    assert "application/vnd.jupyter.widget-view+json" in cell._repr_mimebundle_()


def test_widgets_change_the_stack_and_the_code_makes_the_picture_again(clothes, stack, explore):
    cell = explore(stack, prompt="bag")
    image, guidance, reduction = cell.controls
    image.parameters["weight"].value = 0.35
    image.window.value = (0.0, 0.8)
    image.mask.choice.value = "a box"
    image.mask.across.value = (0.25, 1.0)
    guidance.parameters["scale"].value = 1.25
    reduction.on.value = False
    assert cell.wait(LONG) and cell.error is None
    changed, guided = cell.stack
    assert changed.keys_values is stack[0].keys_values, "they are kept"
    assert (changed.weight.scale, changed.end, guided.scale) == (0.35, 0.8, 1.25)
    assert torch.equal(changed.mask[0], ap.notebook.box_mask(0.25, 0, 1, 1))
    names = {"stack": stack, "pipeline": clothes.pipeline}
    assert "num_inference_steps" not in cell.code, "a preview's steps are few"
    exec(cell.code.replace("prompt='bag'", "prompt='bag', num_inference_steps=2"), names)
    assert names["patches"] == cell.stack
    assert same(names["images"][0], cell.pictures[0])
    assert cell._code.value == cell.code
    image.mask.choice.value = "everywhere"
    assert cell.stack[0].mask is None


def test_a_new_value_stops_the_preview_at_the_next_call_of_the_model(stack, explore):
    calls, first, go = [], threading.Event(), threading.Event()

    def generate(pipeline, steps):
        made = []
        for step in range(3):
            made += pipeline(num_inference_steps=1).images
            weights = [patch.weight.scale for patch in ap.attached(pipeline)[:1]]
            calls.append((step, *weights))
            if calls[-1] == (0, 1.0) and not first.is_set():
                first.set()
                assert go.wait(LONG)
        return made

    cell = explore(stack[:1], generate=generate)
    assert first.wait(LONG), "the preview of the first weight runs"
    cell.controls[0].parameters["weight"].value = 0.25
    go.set()
    assert cell.wait(LONG) and cell.error is None
    assert [call for call in calls if call[1:] == (1.0,)] == [(0, 1.0)], "it went no further"
    assert [call for call in calls if call[1:] == (0.25,)] == [(step, 0.25) for step in range(3)]
    assert len(cell.pictures) == 3
    assert cell._previews.stopped == 1
    assert "generate(pipeline, steps)" in cell.code


def test_patches_that_are_attached_are_taken(clothes, stack, explore):
    with ap.attach(clothes.pipeline, stack[1:]):
        cell = explore()
        assert cell.stack == stack[1:]
        assert cell.wait(LONG) and cell.error is None
        assert ap.attached(clothes.pipeline) == stack[1:]


def test_errors_are_shown_and_the_next_value_works(stack, explore):
    def generate(pipeline, steps):
        if steps == 3:
            raise MemoryError("<b>too large</b>")
        if steps == 2:
            return ["no picture"]
        return pipeline(num_inference_steps=steps).images

    cell = explore(stack[:1], generate=generate)
    cell._steps.value = 3
    assert cell.wait(LONG)
    assert isinstance(cell.error, MemoryError)
    assert "No preview. MemoryError: <b>too large</b>" in Page(cell._status.value).text
    cell._steps.value = 2
    assert cell.wait(LONG) and cell.error is not None
    cell._steps.value = 1
    assert cell.wait(LONG) and cell.error is None


def test_values_that_do_not_go_together_are_said():
    pytest.importorskip("ipywidgets")
    from attnpatch.notebook.widgets import Explorer

    gain = ap.KeyGain(ap.ReferenceKeys(0), 1.5, outside=0.5, mask=torch.ones(4, 4))
    cell = Explorer(_Nothing(), ap.PatchStack(gain), 1)
    assert cell.wait(LONG) and cell.error is None
    cell.controls[0].mask.choice.value = "everywhere"
    assert "outside: expected 1 without a mask, got 0.5" in Page(cell._status.value).text
    cell.close()


class _Nothing:
    code = "nothing"

    def __call__(self, stack, steps, check):
        return [np.zeros((4, 4, 3), np.uint8)]


def test_what_cannot_be_explored(clothes, stack, monkeypatch):
    with pytest.raises(TypeError, match="pipeline: expected a pipeline of diffusers, got UNet2D"):
        ap.explore(clothes.pipeline.unet, stack)
    with pytest.raises(TypeError, match="pipeline: expected a pipeline of diffusers, got int"):
        ap.explore(3, stack)
    with pytest.raises(ValueError, match="patches: expected at least one, got none"):
        ap.explore(clothes.pipeline)
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        ap.explore(clothes.pipeline, stack, steps=0)
    with pytest.raises(TypeError, match="generate: it calls the pipeline itself; got prompt too"):
        ap.explore(clothes.pipeline, stack, generate=print, prompt="bag")
    wide = ap.Identity(make_adapter(make_unet()), torch.ones(512))
    with pytest.raises(ValueError, match="70 sites"):
        ap.explore(clothes.pipeline, wide)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="it needs ipywidgets; pip install"):
        ap.explore(clothes.pipeline, stack)
