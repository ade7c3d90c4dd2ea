# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Cells as rows of one batch, equal to the same cells run one by one."""

import numpy as np
import pytest

import attnpatch as ap
from attnpatch.hosts.diffusers import attach
from attnpatch.studies.batches import group_cells
from attnpatch.studies.runner import Runner

FASHION = "attnpatch/fashion"
STYLE = {"kind": "ImagePrompt", "adapter": FASHION, "picture": f"{FASHION}:3", "weight": 0.6}
SAG = {"kind": "SelfAttentionGuidance", "scale": 0.5}
LIMIT = 1e-5  # float32, on pictures of 0 to 1


def alone(runner, cell):
    """One call of the pipeline, without anything of studies but the patches."""
    with attach(
        runner.model.pipeline,
        runner.maker.patches(cell),
        cond_or_uncond=runner.model.cond_or_uncond,
    ):
        return runner.model.generate([cell], lambda: None)[0]


def compare(model, study):
    """Every cell in a batch beside the cell alone; the largest difference, and the shared rows."""
    runner = Runner(model, rows=64)
    groups = group_cells(study.cells())
    largest, rows, computed = 0.0, 0, 0
    pictures = []
    for group in groups:
        for made in runner.run(group):
            rows, computed = rows + made.shared.rows, computed + made.shared.computed
            for cell, picture in zip(made.cells, made.pictures, strict=True):
                largest = max(largest, float(np.abs(picture - alone(runner, cell)).max()))
                pictures.append(picture.tobytes())
    assert len(pictures) == len(study)
    return largest, rows, computed, len(set(pictures))


CASES = {
    "weights and windows": (
        {"style": STYLE},
        {"style.weight": [0.2, 1.0], "style.window": [[0, 0.5], [0, 1], [0.5, 1], [0.4, 0.7]]},
    ),
    "curves, presets and scalings": (
        {"style": STYLE},
        {
            "style.curve": [[], [[0.3, 0], [0.6, 1]]],
            "style.preset": ["linear", "ease in"],
            "style.scaling": ["V only", "K+V"],
        },
    ),
    "masks": (
        {"style": STYLE},
        {"style.mask": [None, [0, 0, 0.5, 1], [0.5, 0, 1, 1]], "style.weight": [0.5, 1.0]},
    ),
    "pictures and seeds": (
        {"style": STYLE},
        {"style.picture": [f"{FASHION}:0", f"{FASHION}:18"], "seed": [0, 1, 2]},
    ),
    "two image prompts, one of them off": (
        {"style": STYLE, "other": {**STYLE, "picture": f"{FASHION}:13", "mask": [0, 0, 0.5, 1]}},
        {"other.on": [True, False], "style.on": [True, False], "style.weight": [0.3, 0.9]},
    ),
    "prompts": ({"style": STYLE}, {"prompt": ["", "bag", "dress"], "style.weight": [0, 0.5]}),
    "a shared softmax": (
        {"style": {**STYLE, "shared_softmax": True}},
        {"style.weight": [0.0, 0.4, 0.8], "style.window": [[0, 1], [0.3, 1]]},
    ),
    "guidance": (
        {"style": STYLE, "sag": SAG},
        {"sag.scale": [0.0, 0.5, 1.0], "style.weight": [0.3, 0.9]},
    ),
    "fewer tokens": (
        {"style": STYLE, "tokens": {"kind": "TokenMerging", "ratio": 0.5}},
        {"style.weight": [0.3, 0.9], "tokens.on": [True, False], "seed": [0, 1]},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_rows_equal_cells_alone(fashion, name):
    patches, axes = CASES[name]
    study = ap.Study(FASHION, patches, axes, pipeline={"steps": 6})
    largest, rows, computed, different = compare(fashion, study)
    assert largest <= LIMIT
    assert computed <= rows
    if name == "weights and windows":
        assert computed < rows
    if name != "prompts":
        assert different == len(study) - (name == "a shared softmax")
