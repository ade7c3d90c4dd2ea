# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Every value that notebooks show: whole pages that say what the value is, and run nothing."""

import math
import re
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import attnpatch as ap
from attnpatch.demo import store
from attnpatch.demo.pipeline import FashionPipeline
from attnpatch.display import AttentionOver, FacesIn, SideBySide
from attnpatch.engine import JointLayer, JointTable, Patch, layer_table
from attnpatch.faces import Face
from html_page import Page

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;.safetensors"
FACE = Face([2, 3, 22, 27], 0.75, [[7, 10], [17, 10], [12, 15], [8, 21], [16, 21]], np.ones(512))


def prompt(family="sd1", pictures=1, **options):
    generator = torch.Generator().manual_seed(0)
    rows = [
        tuple(torch.randn(pictures, 4, channels, generator=generator) for _ in "kv")
        for channels in layer_table(family).channels
    ]
    return ap.ImagePrompt.from_keys_values(rows, **options)


@dataclass(frozen=True, repr=False)
class Foreign(Patch):
    """A patch of another maker."""

    label: str = ""
    type_name = "foreign patch of test_cards"

    def bind(self, table, index=0):
        raise NotImplementedError

    def state(self):
        return {"label": self.label}, {}

    @classmethod
    def from_state(cls, values, tensors):
        return cls(**values)

    def __repr__(self):
        return f"Foreign({self.label})"


def embeds(pictures):
    tokens = torch.randn(pictures, 3, 8, generator=torch.Generator().manual_seed(1))
    return ap.ImageEmbeds(tokens, tokens[:1], {"kind": HOSTILE, HOSTILE: HOSTILE})


def values():
    mask = torch.zeros(3, 9, 7)
    mask[:, :, :4] = 1
    stack = ap.PatchStack(
        [
            prompt(weight=ap.Weight(0.8, curve=[(0, 1), (0.5, 0)]), mask=mask, source=HOSTILE),
            ap.SelfAttentionGuidance(1.5, start=0.25, end=0.75),
            ap.NormalizedAttentionGuidance(torch.ones(3, 4), 4.0),
            ap.SlothfulAttention(),
            ap.KeyGain(ap.ReferenceKeys(0), 1.5),
            Foreign(HOSTILE),
        ]
    )
    adapter = ap.load_image_adapter(store.SHIPPED / store.ADAPTER_FILE)
    report = ap.PatchStack(stack[:2]).bind("sd1").report()
    yield "stack", stack
    yield "empty stack", ap.PatchStack()
    yield from ((f"patch {patch.type_name}", patch) for patch in stack)
    yield "preset", prompt("sdxl", weight=ap.Weight(2.0, "style transfer"))
    yield "report", replace(report, unpatched=(HOSTILE,), patches=(HOSTILE, "b"), spans=("text",))
    yield "empty report", ap.PatchStack().bind("sd1").report()
    yield "embeds", embeds(1)
    yield "several embeds", embeds(6)
    yield "adapter", adapter
    yield "face", FACE
    yield "face without embedding", replace(FACE, embedding=None, box=[5, 5, 5, 5])
    yield "faces", FacesIn(np.zeros((30, 40, 3), np.uint8), [FACE, FACE])
    yield "no faces", FacesIn(np.zeros((30, 40, 3), np.uint8), [])
    yield "side by side", SideBySide(np.zeros((2, 4, 6, 3), np.uint8), [HOSTILE, "b"], 9, HOSTILE)
    yield "attention", AttentionOver(torch.tensor([[[0.5, 3.0]]]), np.zeros((8, 16, 3), np.uint8))
    yield "attention alone", AttentionOver(torch.rand(9, 2, 2))


VALUES = dict(values())


@pytest.mark.parametrize("name", VALUES)
def test_a_display_is_a_whole_page_that_runs_and_fetches_nothing(name):
    value = VALUES[name]
    html = value._repr_html_()
    assert type(html) is str
    page = Page(html)
    assert len(page.all("style")) == 1
    assert not page.all("script")
    for element, attributes in page.elements:
        assert element != "image" or attributes["href"].startswith("data:image/png;base64,")
        assert not any(given.startswith("on") for given in attributes), attributes
        for address in ("src", "href"):
            assert attributes.get(address, "data:").startswith("data:")
    shown = str(value) if isinstance(value, type(VALUES["report"])) else repr(value)
    assert page.plain == shown, "where a page drops style sheets, the text is what it was"


@pytest.mark.parametrize(
    "name", ["stack", "patch image_prompt", "report", "embeds", "side by side"]
)
def test_hostile_names_are_shown_as_they_are(name):
    page = Page(VALUES[name]._repr_html_())
    assert HOSTILE in page.text
    assert all(image["src"].startswith("data:") for image in page.all("img"))


def test_values_print_as_before():
    assert repr(ap.PatchStack([ap.HyperTile()])) == "PatchStack([HyperTile()])"
    assert repr(embeds(1)).startswith("ImageEmbeds(")
    assert repr(FacesIn(np.zeros((3, 3, 3), np.uint8), [FACE])) == "FacesIn(1 face)"


def test_a_stack_shows_each_patch_with_number_bytes_and_masks():
    stack = VALUES["stack"]
    page = Page(stack._repr_html_())
    assert len(page.all("div", "ap-part")) == len(stack)
    assert f"{len(stack)} patches, {stack.nbytes / 1e3:.1f} kB kept" in page.text
    assert f"{stack[0].nbytes / 1e3:.1f} kB" in page.text
    for patch in stack:
        assert type(patch).__name__ in page.text
    masks = page.all("img")
    assert [mask["alt"] for mask in masks] == [
        f"mask {i} of 3, 9 × 7: {4 / 7:.0%} on average" for i in (1, 2, 3)
    ]
    assert "from 25% to 75%" in page.text


def test_masks_of_any_values_are_shown():
    mask = torch.full((6, 4, 4), 0.5, requires_grad=True)
    page = Page(prompt(mask=mask, pictures=6)._repr_html_())
    assert len(page.all("img")) == 4
    assert "and 2 more" in page.text
    strange = prompt(mask=torch.tensor([[-3.0, 9.0]]))
    assert len(Page(strange._repr_html_()).all("img")) == 1


def test_a_report_has_a_cell_for_each_layer_with_the_numbers_of_what_acts():
    stack = ap.PatchStack([prompt("sdxl"), ap.PerturbedAttentionGuidance(3.0, blocks="m0")])
    page = Page(stack.bind("sdxl").report()._repr_html_())
    cells = page.all("div", "ap-cell")
    assert len(cells) == 70
    middle = [cell for cell in cells if "patches here: 0, 1" in cell["title"]]
    assert len(middle) == 10
    assert all(cell["title"].startswith("mid_block") for cell in middle)
    assert sum("not here: 1: not of the blocks m0" in cell["title"] for cell in cells) == 60
    assert "ImagePrompt at 70 of 70 layers" in page.text
    assert "PerturbedAttentionGuidance at 10 of 70 layers; not at 60:" in page.text
    order = [cell["title"].split(".")[0] for cell in cells]
    assert list(dict.fromkeys(order)) == ["down_blocks", "mid_block", "up_blocks"], "as it runs"
    assert not page.all("div", "ap-none")
    alone = Page(stack[1:].bind("sdxl").report()._repr_html_())
    assert len(alone.all("div", "ap-none")) == 60


def test_a_report_of_joint_attention_goes_by_the_names_of_its_blocks():
    layers = [
        JointLayer(i, f"blocks.{i}", "double" if i < 2 else "single", i % 2, 2, 64)
        for i in range(4)
    ]
    stack = ap.PatchStack([ap.KeyGain(ap.ReferenceKeys(0), 1.5)])
    page = Page(stack.bind(JointTable("Flux", layers)).report()._repr_html_())
    assert len(page.all("div", "ap-cell")) == 4
    assert len(page.all("div", "ap-block")) == 2
    assert re.search("double.*single", page.text)


def test_pictures_side_by_side_have_one_height_and_their_captions():
    pictures = [np.zeros((4, 6, 3), np.uint8), np.zeros((300, 100, 3), np.uint8)]
    page = Page(SideBySide(pictures, ["a", "b"], height=100)._repr_html_())
    assert [image["height"] for image in page.all("img")] == ["100", "100"]
    assert [int(image["width"]) for image in page.all("img")] == pytest.approx([150, 33], abs=1)
    assert ["ap-pixels" in image.get("class", "") for image in page.all("img")] == [True, False]
    with pytest.raises(ValueError, match="captions: expected 2, one a picture, got 1"):
        SideBySide(pictures, ["a"])
    with pytest.raises(ValueError, match="height: expected at least 1, got 0"):
        SideBySide(pictures, height=0)


def test_attention_says_where_it_is_most():
    page = Page(VALUES["attention"]._repr_html_())
    assert "3.0 times its share in row 0, column 1" in page.text
    assert "50% above 1" in page.text
    assert len(page.all("img")) == 3
    assert "and 1 more" in Page(VALUES["attention alone"]._repr_html_()).text
    wrong = AttentionOver(torch.rand(2, 2, 2), [np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(ValueError, match="pictures: expected 2, one a map, got 1"):
        wrong._repr_html_()


def test_faces_stand_where_they_are_with_keypoints_and_crop():
    page = Page(VALUES["faces"]._repr_html_())
    (drawing,) = page.all("svg")
    assert drawing["viewbox"] == "0.00 0.00 40.00 30.00"
    box = page.all("rect")[1]
    assert [float(box[key]) for key in ("x", "y", "width", "height")] == [2, 3, 20, 24]
    points = [(float(dot["cx"]), float(dot["cy"])) for dot in page.all("circle")]
    assert points[:5] == [(7, 10), (17, 10), (12, 15), (8, 21), (16, 21)]
    assert [image["alt"] for image in page.all("img")] == ["face 0, aligned", "face 1, aligned"]
    assert drawing["aria-label"] == "the picture, with 2 faces"
    assert len(points) == 10
    for wrong in ([3], FACE, None):
        with pytest.raises(TypeError, match="faces: expected a list of faces, got"):
            FacesIn(np.zeros((3, 3, 3), np.uint8), wrong)


def test_an_attachment_shows_patches_map_and_attention():
    pipeline = FashionPipeline.shipped()
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with ap.attach(pipeline, ap.SelfAttentionGuidance(1.0), cond_or_uncond=(1, 0)) as attachment:
        before = Page(attachment._repr_html_())
        pipeline(torch.tensor([10, 10]), noise, 1.5, 2)
        page = Page(attachment._repr_html_())
    assert len(page.all("div", "ap-cell")) == len(attachment.report.wanted)
    assert len(page.all("img")) == len(before.all("img")) + 4, "heat map and mask of two pictures"
    assert "attached" in page.text
    assert "detached" in Page(attachment._repr_html_()).text


@pytest.mark.slow
def test_displays_come_when_they_are_asked_for():
    program = """
import sys
import attnpatch as ap
assert not [name for name in sys.modules if name.startswith("attnpatch.display")]
assert ap.PatchStack()._repr_html_()
assert "PIL" not in sys.modules and "IPython" not in sys.modules
assert ap.display.FacesIn
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_attention_that_was_not_recorded_is_said_at_once():
    with pytest.raises(TypeError, match="attention: expected a tensor, got None: nothing was"):
        AttentionOver(None)
    with pytest.raises(TypeError, match="attention: expected a tensor, got 'map'"):
        AttentionOver("map")
    for threshold in ("x", math.nan, math.inf):
        with pytest.raises(ValueError, match="threshold: expected a finite number, got"):
            AttentionOver(torch.ones(1, 2, 2), threshold=threshold)
