# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Wrong names and types are errors before anything runs."""

import pytest

import attnpatch as ap
from attnpatch.studies.check import check_cells

FASHION = "attnpatch/fashion"
STYLE = {"kind": "ImagePrompt", "adapter": FASHION, "picture": f"{FASHION}:3"}
SAG = {"kind": "SelfAttentionGuidance"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"axes": {"style.weigth": [1]}}, "axes: style: .*got 'weigth'; did you mean 'weight'"),
        ({"axes": {"stile.weight": [1]}}, "got 'stile.weight'; did you mean 'style.weight'"),
        ({"axes": {"guidence": [1]}}, "got 'guidence'; did you mean 'guidance'"),
        ({"axes": {"weight": [1]}}, "did you mean 'style.weight'"),
        ({"axes": {"style.kind": ["Identity"]}}, "axes: style: .*got 'kind'"),
        ({"pipeline": {"step": 4}}, "pipeline: .*did you mean 'steps'"),
        ({"patches": {"a": {"kind": "ImagePromt"}}}, "did you mean 'ImagePrompt'"),
        ({"patches": {"a": {**SAG, "scales": 2}}}, "patches.a: .*did you mean 'scale'"),
        ({"patches": {"a.b": SAG}}, "without a dot"),
        ({"patches": {"seed": SAG}}, "that no argument has, got 'seed'"),
        ({"model": {"source": FASHION, "dtyp": "float32"}}, "model: .*did you mean 'dtype'"),
        ({"model": {"source": FASHION, "dtype": "float"}}, "did you mean 'float16'|float32"),
        ({"axes": {"seed": 3}}, "seed: expected a list of values, got 3"),
        ({"axes": {"seed": []}}, "seed: expected a list of values"),
        ({"axes": [{"seed": [1]}, {"seed": [2]}]}, "expected each parameter once, got seed again"),
    ],
)
def test_wrong_names(options, text):
    given = {"model": FASHION, "patches": {"style": STYLE}, **options}
    with pytest.raises(ValueError, match=text):
        ap.Study(**given)


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ({"style.weight": ["strong"]}, "style.weight: no preset is called 'strong'"),
        ({"style.weight": [[1.0, "a"]]}, "style.weight: expected a number"),
        ({"style.preset": ["ease inn"]}, "style.weight: no preset is called 'ease inn'"),
        ({"style.window": [[0.5, 0.2]]}, "style.start: expected at most the end, 0.2, got 0.5"),
        ({"style.window": [0.5]}, r"style.window: expected \[start, end\]"),
        ({"style.curve": [[[0, 1], [2, 0]]]}, "style.curve: expected a progress of 0 to 1"),
        ({"style.curve": [[0, 1]]}, "style.curve: expected points"),
        ({"style.mask": ["none.png"]}, "style.mask: expected a file that is there, got 'none.png'"),
        ({"style.mask": [[0, 0, 2, 1]]}, r"style.mask: expected a file, or \[left, top"),
        ({"style.picture": ["none.png"]}, "style.picture: expected a file that is there"),
        ({"style.picture": [3]}, "style.picture: expected a file, got 3"),
        ({"style.scaling": ["K"]}, "style.scaling: expected one of"),
        ({"sag.scale": ["much"]}, "sag.scale: expected a number, got 'much'"),
        ({"sag.rescale": [2.0]}, "sag.rescale: expected 0 to 1, got 2.0"),
        ({"tokens.ratio": [4]}, "tokens.ratio: expected"),
        ({"seed": [-1]}, "seed: expected a whole number of at least 0, got -1"),
        ({"steps": [0]}, "steps: expected a whole number of at least 1, got 0"),
        ({"size": [[1, 2, 3]]}, r"size: expected a whole number, or \[height, width\]"),
        ({"prompt": [7]}, "prompt: expected a text, got 7"),
        ({"guidance": [True]}, "guidance: expected a number, got True"),
    ],
)
def test_wrong_values(axes, text, tmp_path):
    patches = {"style": STYLE, "sag": SAG, "tokens": {"kind": "TokenMerging"}}
    study = ap.Study(FASHION, patches, axes, folder=tmp_path)
    with pytest.raises((TypeError, ValueError), match=text):
        check_cells(study.cells())


def test_right_values():
    axes = [
        {"style.window": [[0, 0.5], [0.5, 1]], "style.preset": ["linear", "ease in", {"0": 0.5}]},
        {"style.curve": [[[0, 1], [1, 0]]], "style.mask": [None, [0, 0, 0.5, 1]]},
        {"sag.scale": [0, 0.5], "sag.curve": [[], [[0, 1]]], "size": [32, [32, 32]], "seed": [7]},
    ]
    study = ap.Study(FASHION, {"style": STYLE, "sag": SAG}, axes)
    check_cells(study.cells())
    assert len(study) == 2 * 3 * 1 * 2 * 2 * 2 * 2
