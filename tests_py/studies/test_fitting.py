# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What only the loaded model knows is found before the first cell runs, in every engine."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import attnpatch as ap
from attnpatch.demo import store
from attnpatch.patches import ImagePrompt
from attnpatch.studies.dry_run import dry_run
from attnpatch.studies.fitting import unlike

FASHION = "attnpatch/fashion"
STYLE = {"kind": "ImagePrompt", "adapter": FASHION, "picture": f"{FASHION}:3"}
SEVERAL = {**STYLE, "picture": [f"{FASHION}:3", f"{FASHION}:4"]}


@pytest.mark.parametrize(
    ("patches", "axes", "text"),
    [
        ({"style": STYLE}, {"style.preset": ["9999:1.0"]}, "style.weight: t = 9999 is not a"),
        ({"style": STYLE}, {"style.preset": [{"0": 1.0, "9999": 1.0}]}, "style.weight: t = 9999"),
        ({"style": STYLE}, {"style.weight": [[1.0, 0.5]]}, "style.weight: expected one number for"),
        (
            {"style": STYLE},
            {"style.preset": [{"down.block_9": 1.0}]},
            "style.weight: 'down.block_9",
        ),
        ({"style": SEVERAL}, {"style.combine": ["batch"]}, "style.picture: .* one picture, got 2"),
        ({"style": {**STYLE, "adapter": "a.bin"}}, {}, "style.adapter: .*a.bin"),
        ({"style": {**STYLE, "kind": "Identity"}}, {}, "style.faces: face models: no detector"),
        # Between the points that bilinear resizing to 16 rows and fewer looks at.
        (
            {"style": STYLE},
            {"style.mask": [[0, 0, 1, 1 / 64]]},
            "style.mask: expected one that reaches",
        ),
        ({"style": STYLE}, {"style.on": [True], "prompt": ["dres"]}, "did you mean 'dress'"),
    ],
)
def test_what_does_not_fit_is_an_error_before_anything_runs(
    patches, axes, text, fashion, tmp_path, monkeypatch
):
    (tmp_path / "a.bin").write_bytes(b"no adapter")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ATTNPATCH_FACE_MODELS", str(tmp_path))
    monkeypatch.setattr(fashion, "generate", pytest.fail)
    study = ap.Study(FASHION, patches, axes, {"steps": 1}, folder=tmp_path)
    with pytest.raises((OSError, ValueError), match=text):
        ap.run_study(study, tmp_path / "out", model=fashion, progress=False)
    assert not (tmp_path / "out").exists()  # what is mended needs no --resume
    with pytest.raises((OSError, ValueError), match=text):
        dry_run(study, tmp_path / "out", model=fashion)


def test_an_adapter_of_another_model(fashion, tmp_path):
    """Whole, but with fewer layers: the last cell's alone."""
    tensors = load_file(store.SHIPPED / store.ADAPTER_FILE)
    sites = sorted({int(n.split(".")[1]) for n in tensors if n.startswith("ip_adapter.")})
    last = f"ip_adapter.{sites[-1]}."
    kept = {name: value for name, value in tensors.items() if not name.startswith(last)}
    save_file(kept, tmp_path / "other.safetensors")
    axes = {"style.weight": [0.5, 1.0], "style.adapter": [FASHION, "other.safetensors"]}
    study = ap.Study(FASHION, {"style": STYLE}, axes, {"steps": 1}, folder=tmp_path)
    with pytest.raises(
        ValueError, match=r"style\.adapter: .* the 7 layers of this UNet .* got one for 6 "
    ):
        ap.run_study(study, tmp_path / "out", model=fashion, progress=False)
    assert not (tmp_path / "out").exists()


def test_a_patch_that_is_a_value(fashion, tmp_path):
    keys = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    patch = ImagePrompt.from_keys_values([keys], [keys])
    study = ap.Study(FASHION, {"own": patch}, {"own.weight": [0.5]}, {"steps": 1})
    with pytest.raises(ValueError, match=r"own: .* the 7 layers of this UNet .* got one for 1 "):
        ap.run_study(study, tmp_path / "out", model=fashion, progress=False)


@pytest.mark.slow
def test_in_processes_too(tmp_path):
    study = ap.Study(FASHION, {"style": STYLE}, {"style.preset": ["9999:1.0"]}, {"steps": 1})
    with pytest.raises(ValueError, match=r"style\.weight: t = 9999 is not a spatial"):
        ap.run_study(study, tmp_path / "out", engine="processes", workers=1, progress=False)
    assert not (tmp_path / "out").exists()


def test_cells_that_stand_for_all():
    axes = {"style.weight": [0.5, 1.0], "prompt": ["", "dress"], "seed": [0, 1, 2]}
    study = ap.Study(FASHION, {"style": STYLE}, axes)
    assert [dict(cell.place) for cell in unlike(study.cells())] == [
        {"style.weight": 0.5, "prompt": "", "seed": 0},
        {"style.weight": 0.5, "prompt": "dress", "seed": 0},
        {"style.weight": 1.0, "prompt": "", "seed": 0},
    ]
