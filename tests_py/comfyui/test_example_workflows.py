# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The example workflows agree with the node table, link what fits, and say the same twice."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from attnpatch.nodes import NODE_CLASS_MAPPINGS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "comfyui" / "attnpatch_nodes" / "example_workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def test_they_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from example_workflows.files import texts

    wanted = texts()
    assert set(wanted) == set(FOLDER.rglob("*.json"))
    for path, text in wanted.items():
        assert path.read_text(encoding="utf-8") == text, (
            f"stale: {path}; PYTHONPATH=tools python -m example_workflows writes it"
        )


@pytest.mark.parametrize("name", NAMES)
def test_our_nodes_take_what_they_are_given(name):
    workflow = read(f"api/{name}.json")
    ours = {i: node for i, node in workflow.items() if node["class_type"] in NODE_CLASS_MAPPINGS}
    assert ours
    for node in ours.values():
        declared = NODE_CLASS_MAPPINGS[node["class_type"]].INPUT_TYPES()
        known = declared["required"] | declared["optional"]
        assert node["inputs"].keys() <= known.keys()
        assert node["inputs"].keys() >= declared["required"].keys()
        for key, value in node["inputs"].items():
            kind, options = known[key]
            if isinstance(value, list):
                source = workflow[value[0]]["class_type"]
                if source in NODE_CLASS_MAPPINGS:
                    assert NODE_CLASS_MAPPINGS[source].RETURN_TYPES[value[1]] == kind
            elif isinstance(kind, list):
                assert value in kind or key.endswith("_file")  # files: what the user has
            elif kind in ("FLOAT", "INT"):
                assert options["min"] <= value <= options["max"]
            else:
                assert isinstance(value, {"STRING": str, "BOOLEAN": bool}[kind])


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_are_the_same_workflow(name):
    api, editor = read(f"api/{name}.json"), read(f"{name}.json")
    assert [str(node["id"]) for node in editor["nodes"]] == list(api)
    links = {link[0]: link for link in editor["links"]}
    for node in editor["nodes"]:
        given = api[str(node["id"])]
        assert node["type"] == given["class_type"]
        linked, shown = {}, [v for v in node["widgets_values"] if v not in ("fixed", "image")]
        for slot, socket in enumerate(node["inputs"]):
            if socket["link"] is None:
                continue
            _, source, output, target, place, kind = links.pop(socket["link"])
            assert (target, place, kind) == (node["id"], slot, socket["type"])
            sender = editor["nodes"][source - 1]["outputs"][output]
            assert socket["link"] in sender["links"] and kind in (sender["type"], "*")
            linked[socket["name"]] = [str(source), output]
            if "widget" in socket:  # behind it the widget stays, with a value that does not count
                types = NODE_CLASS_MAPPINGS[node["type"]].INPUT_TYPES()["required"]
                shown.remove(types[socket["widget"]["name"]][1]["default"])
        widgets = {k: v for k, v in given["inputs"].items() if not isinstance(v, list)}
        assert linked == {k: v for k, v in given["inputs"].items() if isinstance(v, list)}
        assert shown == list(widgets.values())
    assert not links


# Of the editor: the bar of a node's title above its position, the least height of a row, and what
# it adds for a text of several lines or a picture.
TITLE, ROW = 30, 20
TEXTS = (
    "CLIPTextEncode",
    "TextEncodeQwenImageEditPlus",
    "AttentionPatchesWordWeights",
    "AttentionPatchesSweepResults",
)
PICTURES = ("LoadImage", "SaveImage", "PreviewImage")
LARGE = dict.fromkeys(TEXTS, 100) | dict.fromkeys(PICTURES, 300)
LARGE |= {"PreviewAny": 200, "AttentionPatchesSweep": 400}


@pytest.mark.parametrize("name", NAMES)
def test_no_node_covers_another(name):
    boxes = []
    for node in read(f"{name}.json")["nodes"]:
        (left, top), (width, height) = node["pos"], node["size"]
        rows = max(len(node["inputs"]), len(node["outputs"])) + len(node["widgets_values"])
        assert height >= ROW * rows + LARGE.get(node["type"], 0), node["type"]
        boxes.append((node["type"], left, top - TITLE, left + width, top + height))
    for (one, left, top, right, bottom), (other, *box) in itertools.combinations(boxes, 2):
        beside = right <= box[0] or box[2] <= left
        assert beside or bottom <= box[1] or box[3] <= top, f"{one} and {other}"
