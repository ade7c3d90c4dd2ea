# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Studies over a workflow of ComfyUI, without a host; tests_py/nodes has the nodes'."""

import pytest

from attnpatch.studies.axes import Axes
from attnpatch.studies.results.loading import load_study
from attnpatch.studies.results.records import write_order
from attnpatch.studies.results.store import Store
from attnpatch.studies.workflow.study import WorkflowStudy

PROMPT = {
    "1": {"class_type": "Load", "inputs": {"ckpt_name": "a.safetensors"}},
    "2:7": {"class_type": "Text", "inputs": {"text": "a", "model": ["1", 0]}},
    "3": {"class_type": "Sample", "inputs": {"seed": 1, "cfg": 6.0, "positive": ["2:7", 0]},
          "_meta": {"title": "Mine"}},
    "4": {"class_type": "Show", "inputs": {"images": ["3", 0]}},
}  # fmt: skip
TEXT = """
name = "one"
[[axes]]
join = "zip"
"Mine.cfg" = [4.0, 6]
"2:7.text" = ["a", "b"]
[[axes]]
join = "random"
count = 3
draw_seed = 2
"Mine.seed" = { low = 0, high = 100, integer = true }
"""


def make(text=TEXT):
    return WorkflowStudy.from_toml(text, PROMPT, ("3", 0))


def test_cells_have_their_values_and_nothing_else():
    study = make()
    cells = study.cells()
    assert len(study) == len(cells) == len({cell.id for cell in cells}) == 6
    for cell in cells:
        assert set(cell.prompt) == {
            "1",
            "2:7",
            "3",
        }  # what does not lead to the picture is left out
        inputs = cell.prompt["3"]["inputs"]
        assert inputs["seed"] == cell.place["Mine.seed"] and inputs["positive"] == ["2:7", 0]
        pair = inputs["cfg"], cell.prompt["2:7"]["inputs"]["text"]
        assert pair in ((4.0, "a"), (6, "b"))
    assert study.source == "a.safetensors"
    assert PROMPT["3"]["inputs"]["cfg"] == 6.0


def test_what_is_equal_is_one_cell():
    """6 and 6.0, titles, and nodes that do not lead there, change nothing."""
    (cell,) = make('[[axes]]\n"3.cfg" = [6, 6.0]').cells()
    other = {**PROMPT, "3": {**PROMPT["3"], "_meta": {"title": "Other"}}}
    del other["4"]
    (same,) = WorkflowStudy(other, ("3", 0)).cells()
    assert cell.id == same.id
    assert make('[[axes]]\n"3.cfg" = [6.5]').cells()[0].id != cell.id


def test_it_lies_beside_its_results(tmp_path):
    study, store = make(), Store(tmp_path)
    study.write(store)
    write_order(store, [])
    found = load_study(tmp_path).study
    assert found == study and found.cells() == study.cells()


def test_wrong_arguments():
    with pytest.raises(ValueError, match="picture: expected a node of the workflow, got '9'"):
        WorkflowStudy(PROMPT, ("9", 0))
    with pytest.raises(TypeError, match="name: expected a text, got 3"):
        WorkflowStudy(PROMPT, ("3", 0), (Axes.grid({"Mine.cfg": [1]}),), 3)
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        make('[[axes]]\njoin = "random"\n"Mine.cfg" = [1, 2]')
