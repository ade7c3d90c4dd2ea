# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Wrong names and types are errors before anything runs."""

import math

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
        ({"seed": [-1]}, "seed: expected a whole number from 0 to 18446744073709551615, got -1"),
        ({"steps": [0]}, "steps: expected a whole number of at least 1, got 0"),
        ({"size": [[1, 2, 3]]}, r"size: expected a whole number, or \[height, width\]"),
        ({"prompt": [7]}, "prompt: expected a text, got 7"),
        ({"guidance": [True]}, "guidance: expected a number, got True"),
        ({"seed": [2**64]}, "seed: expected a whole number from 0 to"),
        ({"style.on": ["false"]}, "style.on: expected true or false, got 'false'"),
        ({"style.on": [0]}, "style.on: expected true or false, got 0"),
        ({"style.end_exclusive": ["no"]}, "style.end_exclusive: expected true or false, got 'no'"),
        ({"style.repeat_last": ["no"]}, "style.repeat_last: expected true or false"),
        ({"style.shared_softmax": [1]}, "style.shared_softmax: expected true or false, got 1"),
        ({"tokens.regular": ["no"]}, "tokens.regular: expected true or false, got 'no'"),
        ({"style.preset": [3]}, "style.preset: expected a name, or weights of layers, got 3"),
    ],
)
def test_wrong_values(axes, text, tmp_path):
    patches = {"style": STYLE, "sag": SAG, "tokens": {"kind": "TokenMerging"}}
    study = ap.Study(FASHION, patches, axes, folder=tmp_path)
    with pytest.raises((TypeError, ValueError), match=text):
        check_cells(study.cells())


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"low": 0.01, "high": 100, "log": "false"}, "w.log: expected true or false, got 'false'"),
        ({"low": 1, "high": 5, "integer": "no"}, "w.integer: expected true or false, got 'no'"),
        ({"low": 0.5, "high": 0.9, "integer": True}, "w: expected whole numbers where integer is"),
        ({"low": "1", "high": 5}, "w.low: expected a number, got '1'"),
        ({"low": 1}, "w.high: expected a number, got None"),
        ({"low": 0, "high": math.inf}, "w.high: expected a finite number, got inf"),
        ({"low": math.nan, "high": 1}, "w.low: expected a finite number, got nan"),
    ],
)
def test_wrong_ranges(values, text):
    with pytest.raises((TypeError, ValueError), match=text):
        ap.Axes.random({"w": values}, 3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"axes": {"style.weight": [math.nan]}}, "style.weight: expected a finite number, got nan"),
        ({"pipeline": {"guidance": math.inf}}, "guidance: expected a finite number, got inf"),
        ({"axes": {3: [1]}}, "names: expected texts as names, got 3"),
        ({"axes": None}, "axes: expected Axes or a table of lists, or several, got None"),
        ({"axes": "x"}, "axes: expected Axes or a table of lists, or several, got 'x'"),
        ({"axes": [1]}, "axes: expected Axes or a table of lists, got 1"),
        ({"unpatched": "no"}, "unpatched: expected true or false, got 'no'"),
        ({"name": 3}, "name: expected a text, got 3"),
        ({"name": "\ud83d"}, "name: expected a text of Unicode"),
        ({"pipeline": {"prompt": "\ud83d"}}, "prompt: expected a text of Unicode"),
        ({"patches": {"a": {"saved": 3}}}, "patches.a.saved: expected a text, got 3"),
    ],
)
def test_values_that_no_study_has(options, text):
    with pytest.raises((TypeError, ValueError), match=text):
        ap.Study(**{"model": FASHION, "patches": {"style": STYLE}, **options})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ap.Axes.grid([1]), r"axes: expected a table by the names .*, got \[1\]"),
        (lambda: ap.Axes.list(3), "axes.combinations: expected a list of tables, got 3"),
        (lambda: ap.Axes.list([1]), "axes.combinations: expected a table by the names .*, got 1"),
        (lambda: ap.Axes.random({"w": [1]}, "4"), "count: expected a whole number .*, got '4'"),
        (lambda: ap.Axes.random({"w": [1]}, 4, -1), "the seed of the draws: expected .*, got -1"),
    ],
)
def test_wrong_axes(make, text):
    with pytest.raises((TypeError, ValueError), match=text):
        make()


@pytest.mark.parametrize("axes", ['axes = "x"', "axes = [1]"])
def test_axes_of_toml_are_tables(axes):
    with pytest.raises(TypeError, match=r"axes: expected tables, got (1|'x')"):
        ap.Study.from_toml(f'model = {{ source = "{FASHION}" }}\n{axes}')


def test_right_values():
    axes = [
        {"style.window": [[0, 0.5], [0.5, 1]], "style.preset": ["linear", "ease in", {"0": 0.5}]},
        {"style.curve": [[[0, 1], [1, 0]]], "style.mask": [None, [0, 0, 0.5, 1]]},
        {"sag.scale": [0, 0.5], "sag.curve": [[], [[0, 1]]], "size": [32, [32, 32]], "seed": [7]},
    ]
    study = ap.Study(FASHION, {"style": STYLE, "sag": SAG}, axes)
    check_cells(study.cells())
    assert len(study) == 2 * 3 * 1 * 2 * 2 * 2 * 2
