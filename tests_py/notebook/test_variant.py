# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What can be changed in a patch, and the code that changes it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnpatch as ap
from attnpatch.engine import layer_table
from attnpatch.notebook import box_mask, drawn_mask
from attnpatch.notebook.code import Origin, as_code
from attnpatch.notebook.masks import mask_text
from attnpatch.notebook.parameters import parameters_of
from attnpatch.notebook.variant import Box, Change, Drawn, apply

PARTS = st.integers(0, 100).map(lambda hundredths: hundredths / 100)


def prompt(**options):
    generator = torch.Generator().manual_seed(0)
    rows = [
        tuple(torch.randn(1, 4, channels, generator=generator) for _ in "kv")
        for channels in layer_table("sd1").channels
    ]
    return ap.ImagePrompt.from_keys_values(rows, **options)


PATCHES = [
    prompt(weight=0.8),
    prompt(weight=ap.Weight(0.8, "ease in", curve=[(0, 1), (1, 0)]), mask=torch.ones(4, 4)),
    ap.SelfAttentionGuidance(0.5),
    ap.PerturbedAttentionGuidance(ap.Weight(3.0, curve=[(0, 1), (1, 0)])),
    ap.SmoothedEnergyGuidance(50.0),
    ap.NormalizedAttentionGuidance(torch.ones(3, 4), 4.0),
    ap.KeyGain(ap.ReferenceKeys(0), 1.5),
    ap.SlothfulAttention(),
    ap.NearSightedAttention(),
    ap.TokenMerging(),
    ap.HyperTile(),
]
STACK = ap.PatchStack(PATCHES)


@given(st.tuples(PARTS, PARTS).map(sorted), st.tuples(PARTS, PARTS).map(sorted), PARTS)
def test_a_box_is_one_inside_and_none_outside(across, down, soft):
    (left, right), (top, bottom) = across, down
    side = 20
    mask = box_mask(left, top, right, bottom, soft=soft, side=side)
    assert mask.shape == (side, side)
    assert float(mask.min()) >= 0 and float(mask.max()) <= 1
    for row in range(side):
        for column in range(side):
            y, x = (row + 0.5) / side, (column + 0.5) / side
            # How far inside; the picture's own edges are far away.
            edges = [x - left if left > 0 else 9, right - x if right < 1 else 9]
            edges += [y - top if top > 0 else 9, bottom - y if bottom < 1 else 9]
            if left == right or top == bottom or min(edges) < -soft / 2 - 1e-6:
                assert mask[row, column] == 0
            elif min(edges) > soft / 2 + 1e-6:
                assert mask[row, column] == 1


def test_soft_edges_fall_in_a_straight_line():
    mask = box_mask(0, 0, 0.5, 1, soft=0.5, side=8)
    assert torch.allclose(mask[0], torch.tensor([1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0]))


@pytest.mark.parametrize(
    ("box", "options", "message"),
    [
        ((0.5, 0, 0.2, 1), {}, "box: expected left <= right and top <= bottom, got 0.5, 0, 0.2, 1"),
        ((0, 0, 1.5, 1), {}, "right: expected 0 to 1, got 1.5"),
        ((0, 0, 1, 1), {"soft": -1}, "soft: expected 0 to 1, got -1"),
        ((0, 0, 1, 1), {"side": 0}, "side: expected at least 1, got 0"),
        ((0, 0, 1, 1), {"side": 2.5}, "side: expected a whole number, got 2.5"),
    ],
)
def test_what_is_no_box(box, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        box_mask(*box, **options)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.type_name)
def test_each_parameter_is_in_its_range_and_changes_nothing_else(patch):
    parameters = parameters_of(patch)
    assert parameters
    for parameter in parameters:
        if parameter.options:
            assert parameter.value in parameter.options
            new = parameter.options[parameter.options.index(parameter.value) - 1]
        else:
            assert parameter.low <= parameter.value <= parameter.high
            new = type(parameter.value)(parameter.low)
        (changed,) = apply([patch], [Change({parameter.name: new})])
        found = {p.name: p.value for p in parameters_of(changed)}
        assert found == {p.name: p.value for p in parameters} | {parameter.name: new}


def test_patches_of_other_makers_have_no_parameters():
    assert parameters_of(object()) == ()


def test_a_changed_prompt_shares_keys_and_values_and_its_curve():
    (changed,) = apply([PATCHES[1]], [Change({"weight": 0.3, "mask": None})])
    assert changed.keys_values is PATCHES[1].keys_values
    assert changed.weight == ap.Weight(0.3, "ease in", curve=[(0, 1), (1, 0)])
    assert changed.mask is None


def test_what_is_not_changed_is_the_patch_itself():
    stack = apply(STACK, [Change({}, on=index != 3) for index in range(len(STACK))])
    assert len(stack) == len(STACK) - 1
    assert all(any(patch is given for given in STACK) for patch in stack)


def changes_of(patch):
    """Changes of some of a patch's parameters, of its mask and window."""
    values = {}
    for parameter in parameters_of(patch):
        if parameter.options:
            values[parameter.name] = st.sampled_from(parameter.options)
        elif isinstance(parameter.value, int):
            values[parameter.name] = st.integers(parameter.low, min(parameter.high, 1000))
        else:
            values[parameter.name] = st.floats(parameter.low, parameter.high)
    if hasattr(patch, "start"):
        values["end"] = PARTS.map(lambda part: max(part, patch.start))
    if isinstance(patch, ap.ImagePrompt | ap.KeyGain):
        masks = [Box(0.25, 0.0, 0.75, 1.0, 0.1), Box(), Drawn(mask_text(bytes(range(256)) * 16))]
        values["mask"] = st.sampled_from(masks) | st.none()
    return st.builds(Change, st.fixed_dictionaries({}, optional=values), st.booleans())


@given(st.tuples(*map(changes_of, PATCHES)))
def test_the_code_makes_the_very_stack(changes):
    seen = []

    class Attached:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    class Names:
        """``ap``, but for what needs a model."""

        def __getattr__(self, name):
            return getattr(ap, name)

        def attach(self, pipeline, patches):
            seen.append((pipeline, patches))
            return Attached()

    origin = Origin("a pipeline", STACK, STACK, {id(STACK): "given"})
    code = as_code(origin, changes, lambda writer, pipeline: f"[{pipeline}]")
    assert "pipeline = ...  # fill in: str" in code
    names = {"given": STACK, "ap": Names()}
    exec(code.replace("import attnpatch as ap\n", "").replace("= ...", "= 'a pipeline'"), names)
    assert seen == [("a pipeline", apply(STACK, changes))]
    assert names["images"] == ["a pipeline"]


@given(st.binary(min_size=1, max_size=64).map(lambda some: (some * 64 * 64)[: 64 * 64]))
def test_a_drawn_mask_is_what_was_drawn(levels):
    mask = drawn_mask(mask_text(levels))
    assert mask.shape == (64, 64) and mask.dtype == torch.float32
    assert torch.equal((255 * mask).round().to(torch.uint8).flatten(), torch.tensor(list(levels)))


@pytest.mark.parametrize("text", ["", "!", "abcd", mask_text(bytes(4096))[:-4], 3, "A" * 9999])
def test_what_is_no_drawn_mask(text):
    with pytest.raises(ValueError, match="text: expected that of a drawn mask, got"):
        drawn_mask(text)
    with pytest.raises(ValueError, match="levels: expected 4096 bytes, got 3"):
        mask_text(b"abc")
