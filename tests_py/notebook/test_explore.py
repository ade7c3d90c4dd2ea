# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An interactive cell on the package's model, its widgets moved as a notebook moves them."""

import importlib.util
import io
import sys
import threading
from copy import copy
from datetime import datetime, timezone

import numpy as np
import pytest
import torch
from PIL import Image

import attnpatch as ap
from attnpatch.demo.clothes import load_clothes
from attnpatch.demo.narrow_sdxl import make_adapter, make_unet
from html_page import Page

pytest.importorskip("ipywidgets")
TraitError = pytest.importorskip("traitlets").TraitError
pytest.importorskip("anywidget")

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


def run(code, **filled):
    """What a copied program makes, in a namespace that has what it says it takes, and no more."""
    lines, names = code.splitlines(), {}
    for place, line in enumerate(lines):
        name, ellipsis, _ = line.partition(" = ...  # fill in: ")
        if ellipsis:
            names[name] = filled.pop(name)
            lines[place] = ""
        elif line.startswith("# As they were where explore was called: "):
            for name in line.split(": ")[1].split(", "):
                names[name] = filled.pop(name)
    assert not filled, "all that is given is asked for"
    exec("\n".join(lines), names)
    return names["images"]


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
    assert "num_inference_steps=2" in cell.code
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
    assert same(run(cell.code, stack=stack, pipeline=clothes.pipeline)[0], cell.pictures[0])
    guidance.parameters["scale"].value = 0.1 + 0.2  # as a slider's steps add up
    assert "scale=0.3)" in cell.code
    assert cell._code.value == cell.code
    image.mask.choice.value = "everywhere"
    assert cell.stack[0].mask is None


def test_a_new_value_stops_the_preview_at_the_next_call_of_the_model(clothes, stack, explore):
    calls, first, go = [], threading.Event(), threading.Event()

    def generate(pipeline, steps):
        made = []
        for step in range(3):
            noise = torch.Generator().manual_seed(step)
            made += pipeline(num_inference_steps=1, generator=noise).images
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
    names = {"generate": generate, "pipeline": clothes.pipeline, "stack": stack[:1]}
    assert all(map(same, run(cell.code, **names), cell.pictures))


def test_a_button_stops_the_preview_and_the_next_value_makes_one(stack, explore):
    begun, go = threading.Event(), threading.Event()

    def generate(pipeline, steps):
        begun.set()
        assert go.wait(LONG)
        return pipeline(num_inference_steps=steps).images

    cell = explore(stack[:1], generate=generate)
    assert begun.wait(LONG)
    assert not cell._stop.disabled
    cell._stop.click()
    assert "stopped" in Page(cell._status.value).text and cell._stop.disabled
    go.set()
    assert cell.wait(LONG)
    assert cell.pictures == [] and cell.error is None
    cell.controls[0].parameters["weight"].value = 0.25
    assert cell.wait(LONG) and cell.error is None
    assert len(cell.pictures) == 1 and cell._stop.disabled


def moved(generator):
    torch.rand(3, generator=generator)
    return generator


@pytest.mark.parametrize(
    ("arguments", "filled"),
    [
        ({"seed": 5}, ()),
        ({"num_inference_steps": 2}, ()),
        ({"generator": torch.Generator().manual_seed(9)}, ()),
        ({"generator": moved(torch.Generator().manual_seed(9))}, ("generator",)),
        ({"guidance_scale": torch.tensor(2.5)}, ("guidance_scale",)),
        ({"prompt": ["bag", 'a"\\'[:0]], "guidance_scale": 3.0}, ()),
        ({"prompt": ("bag",), "num_images_per_prompt": 2}, ()),
    ],
    ids=lambda value: "-".join(value),
)
def test_the_code_has_all_arguments_and_names_what_cannot_be_written(
    clothes, stack, explore, arguments, filled
):
    held = dict(arguments)
    cell = explore(stack[:2], **arguments)
    assert cell.wait(LONG) and cell.error is None
    before = cell.pictures
    cell.controls[1].parameters["scale"].value = 2.0
    assert cell.wait(LONG) and cell.error is None
    assert not same(before[0], cell.pictures[0])
    given = {name: held[name] for name in filled}
    for _ in range(2):
        made = run(cell.code, stack=stack[:2], pipeline=clothes.pipeline, **given)
        assert len(made) == len(cell.pictures) and all(map(same, made, cell.pictures))


def test_the_code_calls_things_as_they_are_called_where_the_cell_was_made(clothes, stack):
    pipe, portrait, strength = clothes.pipeline, stack[0], torch.tensor(1.5)
    stronger = [portrait, ap.SelfAttentionGuidance(0.5)]
    alone = ap.explore(pipe, portrait, steps=1, guidance_scale=strength)
    several = ap.explore(pipe, stronger, steps=1)
    unnamed = ap.explore(pipe, [stack[0].replace(weight=0.5)], steps=1)
    for cell in (alone, several, unnamed):
        assert cell.wait(LONG) and cell.error is None
        cell.controls[0].parameters["weight"].value = 0.25
        assert cell.wait(LONG)
    assert alone.code == (
        "import torch\nimport attnpatch as ap\n\n"
        "# As they were where explore was called: pipe, portrait, strength\n\n"
        "explored = ap.PatchStack(\n    [\n        portrait.replace(weight=0.25),\n    ]\n)\n"
        "with ap.attach(pipe, explored):\n"
        "    images = pipe(guidance_scale=strength, num_inference_steps=1, "
        "generator=torch.Generator().manual_seed(0)).images"
    )
    assert same(
        run(alone.code, pipe=pipe, portrait=portrait, strength=strength)[0], alone.pictures[0]
    )
    assert "        ap.SelfAttentionGuidance(scale=0.5),\n" in several.code, "written in full"
    assert same(run(several.code, pipe=pipe, portrait=portrait)[0], several.pictures[0])
    assert "stack = ...  # fill in: the patches that were given to explore" in unnamed.code
    for cell in (alone, several, unnamed):
        cell.close()


def test_a_drawn_mask_and_a_picture_of_one_are_in_the_stack_and_the_code(clothes, stack, explore):
    cell = explore(stack[:1], prompt="bag")
    mask = cell.controls[0].mask
    assert cell.wait(LONG)
    mask.choice.value = "drawn"
    assert cell.wait(LONG) and cell.stack == stack[:1], "nothing is drawn yet"
    assert mask.canvas.picture.startswith("data:image/png;base64,"), "one draws on the preview"
    levels = bytes(255 if column < 32 else 0 for row in range(64) for column in range(64))
    mask.canvas.levels = levels
    assert cell.wait(LONG) and cell.error is None
    assert torch.equal(cell.stack[0].mask[0], ap.notebook.box_mask(0, 0, 0.5, 1))
    assert same(run(cell.code, stack=stack, pipeline=clothes.pipeline)[0], cell.pictures[0])

    picture = io.BytesIO()
    Image.linear_gradient("L").save(picture, "PNG")
    file = {
        "name": "a.png",
        "type": "image/png",
        "size": 1,
        "last_modified": datetime.now(timezone.utc),
    }
    mask.upload.value = ({**file, "content": memoryview(picture.getvalue())},)
    rows = cell.stack[0].mask[0].mean(1)
    assert rows[0] < 0.02 and rows[-1] > 0.98 and torch.equal(rows, rows.sort().values)
    before = mask.canvas.levels
    mask.upload.value = ({**file, "name": "<b>.png", "content": memoryview(b"no picture")},)
    assert "mask: expected a picture, got <b>.png" in Page(mask._said.value).text
    assert mask.canvas.levels == before
    with pytest.raises(TraitError, match="levels: expected 4096 bytes or none, got 3"):
        mask.canvas.levels = b"abc"


@pytest.mark.parametrize(
    ("picture", "kind", "level"),
    [
        (Image.fromarray(np.full((64, 64), 32768, np.uint16)), "PNG", 128),
        (Image.fromarray(np.full((64, 64), 300, np.uint16)), "PNG", 1),
        (Image.fromarray(np.ones((64, 64), np.float32)), "TIFF", 255),
        (Image.new("RGBA", (64, 64), (255, 255, 255, 0)), "PNG", 0),
        (Image.new("CMYK", (64, 64), (0, 0, 0, 0)), "JPEG", 255),
    ],
    ids=["half of 16 bits", "little of 16 bits", "floats", "transparent", "CMYK"],
)
def test_a_mask_is_read_from_a_picture_of_any_mode(picture, kind, level):
    from attnpatch.notebook.controls import _levels_of

    file = io.BytesIO()
    picture.save(file, kind)
    assert set(_levels_of(file.getvalue(), "a")) == {level}


def test_a_mask_of_an_unknown_range_is_refused():
    from attnpatch.notebook.controls import MaskControls

    file, controls = io.BytesIO(), MaskControls()
    Image.fromarray(np.full((64, 64), 200, np.float32)).save(file, "TIFF")
    given = {"name": "a.tiff", "type": "image/tiff", "size": 1, "content": file.getvalue()}
    controls.upload.value = ({**given, "last_modified": datetime.now(timezone.utc)},)
    assert "mask (a.tiff)" in controls._said.value and "[0, 1]" in controls._said.value
    assert not controls.canvas.levels


def test_patches_that_are_attached_are_taken(clothes, stack, explore):
    with ap.attach(clothes.pipeline, stack[1:]):
        cell = explore()
        assert cell.stack == stack[1:]
        assert cell.wait(LONG) and cell.error is None
        cell.controls[0].parameters["scale"].value = 2.0
        assert cell.wait(LONG)
        for _ in range(2):
            made = run(cell.code, pipeline=clothes.pipeline)
            assert same(made[0], cell.pictures[0])
            assert ap.attached(clothes.pipeline) == stack[1:]


def test_attached_prompts_are_named_by_their_place(clothes, stack, explore):
    with ap.attach(clothes.pipeline, stack[:1]):
        cell = explore(prompt="bag")
        cell.controls[0].parameters["weight"].value = 0.5
        assert cell.wait(LONG) and cell.error is None
        assert "ap.attached(pipeline)[0].replace(weight=0.5)" in cell.code
        assert same(run(cell.code, pipeline=clothes.pipeline)[0], cell.pictures[0])


def test_the_code_takes_no_name_from_a_variable_that_it_reads(clothes, stack):
    """It runs twice, and does the same."""
    patched = ap.patch_model(clothes.pipeline, stack[:1])
    cell = ap.explore(patched, steps=2)
    cell.controls[0].parameters["weight"].value = 0.5
    assert cell.wait(LONG) and cell.error is None
    names = {"patched": patched}
    for _ in range(2):
        exec(cell.code, names)
        assert same(names["images"][0], cell.pictures[0])
    assert names["patched"] is patched and ap.attached(patched) == stack[:1]
    cell.close()


def test_a_variable_of_the_name_of_an_import_is_to_be_filled_in(clothes, stack):
    box_mask = stack[0]
    cell = ap.explore(clothes.pipeline, box_mask, steps=2)
    cell.controls[0].mask.choice.value = "a box"
    assert cell.wait(LONG) and cell.error is None
    assert "from attnpatch.notebook import box_mask\n" in cell.code
    made = run(cell.code, pipeline=clothes.pipeline, stack=[box_mask])
    assert same(made[0], cell.pictures[0])
    cell.close()


def test_errors_are_shown_and_the_next_value_works(stack, explore):
    def generate(pipeline, steps):
        if steps == 3:
            raise MemoryError("<b>too large</b>")
        if steps == 4:
            sys.exit("out")
        if steps == 2:
            return ["no picture"]
        return pipeline(num_inference_steps=steps).images

    cell = explore(stack[:1], generate=generate)
    cell._steps.value = 3
    assert cell.wait(LONG)
    assert isinstance(cell.error, MemoryError)
    assert "No preview. MemoryError: <b>too large</b>" in Page(cell._status.value).text
    cell._steps.value = 4
    assert cell.wait(LONG)
    assert "No preview. SystemExit: out" in Page(cell._status.value).text
    cell._steps.value = 2
    assert cell.wait(LONG) and "picture" in str(cell.error)
    cell._steps.value = 1
    assert cell.wait(LONG) and cell.error is None


def test_values_that_do_not_go_together_are_said():
    pytest.importorskip("ipywidgets")
    from attnpatch.notebook.code import Origin
    from attnpatch.notebook.widgets import Explorer

    gain = ap.KeyGain(ap.ReferenceKeys(0), 1.5, outside=0.5, mask=torch.ones(4, 4))
    stack = ap.PatchStack(gain)
    cell = Explorer(_Nothing(), Origin(None, stack, stack, {}), 1)
    assert cell.wait(LONG) and cell.error is None
    cell.controls[0].mask.choice.value = "everywhere"
    assert "outside: expected 1 without a mask, got 0.5" in Page(cell._status.value).text
    cell.close()


class _Nothing:
    final_steps = None

    def code(self, writer, pipeline, steps):
        return "nothing"

    def __call__(self, stack, steps, check):
        return [np.zeros((4, 4, 3), np.uint8)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"steps": "4"}, "steps: expected a whole number, got '4'"),
        ({"steps": 2.5}, "steps: expected a whole number, got 2.5"),
        ({"steps": True}, "steps: expected a whole number, got True"),
        ({"steps": None}, "steps: expected a whole number, got None"),
        ({"seed": "x"}, "seed: expected a whole number, got 'x'"),
        ({"seed": -1}, "seed: expected 0 to 18446744073709551615, got -1"),
        ({"seed": 2**64}, "seed: expected 0 to"),
        ({"num_inference_steps": "9"}, "num_inference_steps: expected a whole number, got '9'"),
        ({"num_inference_steps": 0}, "num_inference_steps: expected at least 1, got 0"),
        ({"generator": 7}, "generator: expected a torch.Generator, or a list of them, got 7"),
        ({"generator": [7]}, r"generator: expected a torch.Generator, .*, got \[7\]"),
        (
            {"generator": torch.Generator(), "seed": 3},
            "seed: expected none beside a generator, got 3",
        ),
        ({"generate": 3}, "generate: expected a function or None, got 3"),
        (
            {"generate": print, "prompt": "bag", "seed": 1},
            "generate: expected it alone, as it calls the pipeline; got prompt, seed too",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_arguments_that_do_not_fit_are_named(clothes, stack, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ap.explore(clothes.pipeline, stack, **options)


def test_a_pipeline_that_gives_no_images_is_said(clothes, stack, explore):
    class Tuples(type(clothes.pipeline)):
        def __call__(self, **arguments):
            return (super().__call__(**arguments).images,)

    odd = copy(clothes.pipeline)
    odd.__class__ = Tuples
    cell = ap.explore(odd, stack, steps=1)
    assert cell.wait(LONG)
    assert "expected it to give images, got tuple; give generate=" in str(cell.error)
    cell.close()


def test_what_cannot_be_explored(clothes, stack, monkeypatch):
    with pytest.raises(TypeError, match="pipeline: expected a pipeline of diffusers, got UNet2D"):
        ap.explore(clothes.pipeline.unet, stack)
    with pytest.raises(TypeError, match="pipeline: expected a pipeline of diffusers, got int"):
        ap.explore(3, stack)
    with pytest.raises(ValueError, match="patches: expected at least one, got none"):
        ap.explore(clothes.pipeline)
    wide = ap.Identity(make_adapter(make_unet()), torch.ones(512))
    with pytest.raises(ValueError, match="got one for 70 "):
        ap.explore(clothes.pipeline, wide)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="it needs ipywidgets; pip install"):
        ap.explore(clothes.pipeline, stack)
