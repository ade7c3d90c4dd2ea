# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Wrong names and types are errors before anything runs."""

import math

import pytest
from PIL import Image

import attnpatch as ap
from attnpatch.studies.check import check_cells
from attnpatch.studies.inputs import check_model
from attnpatch.studies.run import all_cells

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
        ({"axes": {"style.kind": ["Identity"]}}, "axes: expected options of style, got its kind"),
        ({"axes": {"kind": [1]}}, "axes: expected one of (?!.*style.kind)"),
        ({"pipeline": {"step": 4}}, "pipeline: .*did you mean 'steps'"),
        ({"patches": {"a": {"kind": "ImagePromt"}}}, "did you mean 'ImagePrompt'"),
        ({"patches": {"a": {"kind": "SAG"}}}, "did you mean 'SelfAttentionGuidance'"),
        (
            {"patches": {"a": {"kind": "NormalizedAttentionGuidance"}}},
            "patches.a.kind: .* which is a value in Python, or saved in a file",
        ),
        ({"patches": {"a": {"kind": "pag"}}}, "did you mean 'PerturbedAttentionGuidance'"),
        ({"patches": {"a": {"kind": "SEG"}}}, "did you mean 'SmoothedEnergyGuidance'"),
        ({"patches": {"a": {"kind": "IMAGE_PROMPT"}}}, "did you mean 'ImagePrompt'"),
        ({"patches": {"a": {**SAG, "scales": 2}}}, "patches.a: .*did you mean 'scale'"),
        ({"patches": {"a.b": SAG}}, "without a dot"),
        ({"patches": {"seed": SAG}}, "that no argument has, got 'seed'"),
        ({"model": {"source": FASHION, "dtyp": "float32"}}, "model: .*did you mean 'dtype'"),
        ({"model": {"source": FASHION, "dtype": "float"}}, "did you mean 'float16'|float32"),
        ({"model": {"source": FASHION, "device": "gpu"}}, "model.device: .* cuda:1, got 'gpu'"),
        ({"model": {"source": "m", "family": "sd3"}}, "model.family: .*did you mean 'sd"),
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
        ({"style.mask": [[0.5, 0, 0.501, 1]]}, r"style.mask: .* at least 1/64 wide .* 0.501, 1\]"),
        ({"style.mask": [""]}, "style.mask: expected a file that is there, got ''"),
        ({"style.mask": [3]}, "style.mask: expected a file, got 3"),
        ({"style.mask": ["folder"]}, "style.mask: expected a file that is there, got 'folder'"),
        ({"style.mask": ["cut.png"]}, r"style.mask: .*cut\.png"),
        ({"style.picture": [3]}, "style.picture: expected a file, got 3"),
        ({"style.picture": ["none.gif"]}, "style.picture: .* is there, got 'none.gif'"),
        ({"style.picture": ["none"]}, "style.picture: expected a file that is there, got 'none'"),
        ({"style.picture": ["folder"]}, "style.picture: expected a file that is there"),
        ({"style.picture": [""]}, "style.picture: expected a file that is there, got ''"),
        ({"style.picture": [[]]}, "style.picture: expected a file, or several, got an empty"),
        ({"style.picture": [None]}, "style.picture: expected one, got none"),
        ({"style.picture": ["cut.png"]}, r"style.picture: .*cut\.png"),
        ({"style.picture": [["ok.png", "none.bmp"]]}, "style.picture: .* got 'none.bmp'"),
        ({"style.picture": [f"{FASHION}:99999"]}, f"{FASHION}:0 to {FASHION}:199, got .*:99999'"),
        ({"style.picture": [FASHION]}, f"style.picture: expected {FASHION}:0 to"),
        ({"style.adapter": ["none"]}, "style.adapter: expected a file .* got 'none'"),
        ({"style.adapter": ["owner/name"]}, "style.adapter: .* weight_name, got 'owner/name'"),
        ({"style.adapter": [[]]}, r"style.adapter: expected a file, got \(\)"),
        (
            {"style.adapter": [{"source": "folder", "weight_name": "a.bin"}]},
            "style.adapter: expected a file that is there, got 'folder/a.bin'",
        ),
        ({"style.adapter": [{"sourc": "a"}]}, "style.adapter: .*did you mean 'source'"),
        ({"style.combine": ["mix"]}, "style.combine: expected one of concat, .* got 'mix'"),
        ({"style.combine": [3]}, "style.combine: expected one of .* got 3"),
        ({"style.crop": ["center"]}, "style.crop: expected none, which the model's encoder does"),
        ({"face.combine": ["mix"]}, "face.combine: expected one of"),
        ({"face.noise": ["much"]}, "face.noise: expected a number, got 'much'"),
        ({"face.noise": [-1]}, "face.noise: expected 0 or more, got -1"),
        ({"face.faces": [3]}, "face.faces: expected a file, got 3"),
        ({"face.faces": ["nobody"]}, "face.faces: face models: no detector .* 'nobody'"),
        ({"prompt": ["dres"]}, "prompt: expected one of .* got 'dres'; did you mean 'dress'"),
        ({"negative_prompt": ["ugly"]}, "negative_prompt: expected none, which .* got 'ugly'"),
        ({"size": [64]}, "size: expected 32, got 64"),
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
        ({"seed": [1, True]}, "seed: expected a whole number .* got True"),
        ({"style.weight": [1, True]}, "style.weight: expected a number, got True"),
        ({"prompt": ["x"]}, "prompt: expected one of '', ankle boot"),
    ],
)
def test_wrong_values(axes, text, tmp_path, face_pack):
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "ok.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "ok.png").read_bytes()[:40])
    patches = {"style": STYLE, "sag": SAG, "tokens": {"kind": "TokenMerging"}}
    if next(iter(axes)).startswith("face."):
        patches["face"] = {**STYLE, "kind": "Identity", "faces": face_pack}
    study = ap.Study(FASHION, patches, axes, folder=tmp_path)
    with pytest.raises((OSError, TypeError, ValueError), match=text):
        check_cells(study.cells())


@pytest.fixture
def face_pack(tmp_path):
    """Files of the right names: they are opened when faces are looked for."""
    (tmp_path / "pack").mkdir()
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        (tmp_path / "pack" / name).write_bytes(b"a network")
    return "pack"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"negative": "grey"}, "style.negative: expected zeros or black, got 'grey'"),
        ({"crop": "middle"}, "style.crop: expected 'center', .* got 'middle'"),
        ({"crop": 3}, "style.crop: expected a string, got 3"),
        ({"picture": f"{FASHION}:3"}, "style.picture: expected a file that is there, got"),
        ({"adapter": FASHION}, "style.adapter: expected a file that is there, a folder .* got"),
    ],
)
def test_wrong_options_for_pipelines(options, text, tmp_path):
    """What the encoders of pipelines take; the names of the model in the package mean nothing."""
    Image.new("RGB", (8, 8)).save(tmp_path / "ok.png")
    (tmp_path / "a.bin").touch()
    spec = {"kind": "ImagePrompt", "adapter": "a.bin", "picture": "ok.png"}
    good = ap.Study("owner/name", {"style": spec}, folder=tmp_path)
    check_cells(good.cells())
    study = ap.Study("owner/name", {"style": {**spec, **options}}, folder=tmp_path)
    with pytest.raises((TypeError, ValueError), match=text):
        check_cells(study.cells())


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"source": "none"}, "model.source: expected a file or a folder .* got 'none'"),
        ({"source": ""}, "model.source: .* got ''"),
        ({"source": "attnpatch/fashon"}, f"model.source: .*; did you mean '{FASHION}'"),
        ({"source": "models/none.safetensors"}, "model.source: .* got 'models/none.safetensors'"),
        ({"source": "folder"}, "model.source: expected a folder with a model_index.json"),
        ({"source": FASHION, "dtype": "float16"}, "model.dtype: expected none or 'float32'"),
        ({"source": FASHION, "image_encoder": "a/b"}, "model.image_encoder: expected none for"),
        ({"source": "a/b", "image_encoder": "none"}, "model.image_encoder: .* got 'none'"),
    ],
)
def test_wrong_models(model, text, tmp_path):
    (tmp_path / "folder").mkdir()
    study = ap.Study(model, folder=tmp_path)
    with pytest.raises(ValueError, match=text):
        all_cells(study)
    check_model(ap.Study({"source": "a/b", "image_encoder": "c/d"}).model, tmp_path)


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
        ({"patches": {"a": {"saved": "no.safetensors"}}}, "patches.a.saved: .*no.safetensors"),
    ],
)
def test_values_that_no_study_has(options, text):
    with pytest.raises((OSError, TypeError, ValueError), match=text):
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
