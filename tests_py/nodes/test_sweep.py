# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The nodes that queue a sweep and read its results, on a stand-in for the host's server."""

import copy
import json
import os
import re
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from fake_server import CLASSES, Blocked, FakeServer, Paint
from PIL import Image
from running import run

import attnpatch as ap
from attnpatch.studies.results.png import to_png
from attnpatch.studies.results.records import Entry, picture_name, write_order, write_records
from attnpatch.studies.results.store import Store
from attnpatch.studies.table import plain

STUDY = """
name = "colours"
[[axes]]
"Paint.red" = [0, 255]
"Paint.part" = [0.0, 0.5, 1.0]
"""
PROMPT = {
    "1": {
        "class_type": "Paint",
        "inputs": {"red": 9, "part": 1.0, "mode": "plain", "text": "", "dark": False},
    },
    "2": {"class_type": "AttentionPatchesSweep",
          "inputs": {"images": ["1", 0], "study": STUDY, "folder": "out/colours", "at_most": 100}},
}  # fmt: skip


def workflow(study=STUDY, *, reader=False, **inputs):
    made = copy.deepcopy(PROMPT)
    made["2"]["inputs"] |= {"study": study, **inputs}
    if reader:
        values = {"folder": ["2", 0], "cells": "", "at_most": 64}
        made["3"] = {"class_type": "AttentionPatchesSweepResults", "inputs": values}
    return made


@pytest.fixture
def server(folders, monkeypatch):
    def find(name):
        return os.path.join(folders.get_input_directory(), name)

    folders.exists_annotated_filepath = lambda name: os.path.exists(find(name))
    folders.get_annotated_filepath = find
    found = FakeServer()
    modules = {"server": {"PromptServer": found}, "comfyui_version": {"__version__": "1.2"}}
    modules["comfy_execution.graph_utils"] = {"ExecutionBlocker": Blocked}
    modules["nodes"] = {"NODE_CLASS_MAPPINGS": CLASSES}
    for name, values in modules.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    Paint.runs = 0
    yield found
    found.close()


@pytest.fixture
def out(folders):
    return folders.root / "output/out/colours"


def test_a_sweep_from_the_queue_to_the_sheet(server, out):
    made = server.run(workflow(reader=True))
    assert server.errors == [] and Paint.runs == 0
    assert "6 cells, 0 done, 6 queued" in made["2"][1]
    assert isinstance(made["2"][0], Blocked)  # nothing to read yet
    cells = server.prompts[:-1]
    assert len(cells) == 6 and all(set(one["prompt"]) == {"1", "2"} for one in cells)
    assert [one["prompt"]["1"]["inputs"]["red"] for one in cells] == [0, 0, 0, 255, 255, 255]
    assert all(
        "is_changed" not in node for one in server.prompts for node in one["prompt"].values()
    )
    server.run_queue()
    assert server.errors == [] and Paint.runs == 6 and server.prompts == []
    results = ap.load_study(out)
    assert [(row["Paint.red"], row["Paint.part"]) for row in results] == [
        (red, part) for red in (0, 255) for part in (0.0, 0.5, 1.0)
    ]
    for place, row in enumerate(results):
        colour = np.array([row["Paint.red"], round(row["Paint.part"] * 255), 0])
        assert np.abs(np.asarray(results.picture(place)).astype(int) - colour).max() <= 1
    for name in ("index.html", "table.csv", "sheet.png", "study.toml", "workflow.json"):
        assert (out / name).is_file()
    assert server.shown[-2]["images"][0] == {
        "filename": "sheet.png", "subfolder": "out/colours", "type": "output",
    }  # fmt: skip
    assert "6 of 6 chosen, 6 done" in server.shown[-1]["text"][0]  # the reader ran by itself


def test_a_picture_says_how_it_was_made(server, out):
    server.run(workflow())
    server.run_queue()
    results = ap.load_study(out)
    metadata = results.metadata(4)
    inputs = metadata["cell"]["nodes"]["1"]["inputs"]
    assert inputs["red"] == 255 and inputs["part"] == 0.5
    assert metadata["record"]["place"] == {"Paint.red": 255, "Paint.part": 0.5}
    assert metadata["versions"]["comfyui"] == "1.2"
    assert metadata["versions"]["attnpatch"] == ap.__version__
    assert results.stack(4) == ap.PatchStack()
    with Image.open(out / results[4]["file"]) as image:
        prompt = json.loads(image.text["prompt"])  # what ComfyUI opens: no sweep, but a plain node
    assert prompt["1"]["inputs"]["red"] == 255
    assert prompt["2"]["class_type"] == "SaveImage" and prompt["2"]["inputs"]["images"] == ["1", 0]


def test_the_models_patches_are_kept(server, out, model, image, raw_adapter, clip_vision):
    (patched,) = run("IPAdapterAdvanced", model=model(), ipadapter=raw_adapter(), image=image(),
                     clip_vision=clip_vision)  # fmt: skip
    prompt = workflow('[[axes]]\n"1.red" = [3]')
    prompt["2"]["inputs"]["model"] = ["1", 0]
    told = {"attnpatch_sweep": {"folder": "out/colours", "place": {"1.red": 3}}}
    found = run(
        "AttentionPatchesSweep",
        **prompt["2"]["inputs"] | {"images": torch.zeros(1, 4, 4, 3), "model": patched},
        prompt=prompt,
        extra_pnginfo=told,
        unique_id="2",
    )
    file = out / "pictures" / found["ui"]["images"][0]["filename"][:2]
    file /= found["ui"]["images"][0]["filename"]
    assert ap.stack_from_png(file) == ap.attached(patched) and len(ap.attached(patched)) == 1


def test_what_is_done_or_waits_is_not_queued_again(server, out):
    server.run(workflow())
    server.run_queue(2)
    made = server.run(workflow())
    assert "6 cells, 2 done, 0 queued, 4 in the queue already" in made["2"][1]
    server.prompts.clear()  # somebody empties the queue
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    made = server.run(workflow())
    assert "6 cells, 2 done, 4 queued" in made["2"][1]
    server.run_queue()
    assert Paint.runs == 6 and server.errors == []
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    made = server.run(workflow())
    assert server.prompts == [] and made["2"] == ("out/colours", "out/colours: 6 of 6 cells done")
    grown = workflow(STUDY.replace("[0, 255]", "[0, 128, 255]"))
    assert "9 cells, 6 done, 3 queued" in server.run(grown)["2"][1]


def test_a_damaged_picture_is_queued_again(server, out):
    server.run(workflow())
    server.run_queue()
    results = ap.load_study(out)
    picture, file = np.asarray(results.picture(3)), out / results[3]["file"]
    file.write_bytes(file.read_bytes()[:-40])
    assert "6 cells, 5 done, 1 queued" in server.run(workflow())["2"][1]
    server.run_queue()
    assert server.errors == [] and Paint.runs == 7
    assert (np.asarray(ap.load_study(out).picture(3)) == picture).all()


def test_a_cell_that_fails_is_queued_again(server, out):
    study = '[[axes]]\n"Paint.text" = ["one", "fails"]'
    server.run(workflow(study))
    server.run_queue()
    assert [str(error) for error in server.errors] == ["no memory"]
    assert [row["Paint.text"] for row in ap.load_study(out)] == ["one"]
    assert "2 cells, 1 done, 1 queued" in server.run(workflow(study))["2"][1]


def test_other_pictures_in_the_folder_are_named(server):
    server.run(workflow())
    server.run_queue()
    other = workflow()
    other["1"]["inputs"]["text"] = "another"
    assert "0 done, 6 queued; beside 6 pictures of other" in server.run(other)["2"][1]


@pytest.mark.parametrize("name", ["index.html", "study.toml", "cells.json", "pictures/mine.png"])
def test_files_of_others_are_not_written_over(server, out, name):
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"got {name.partition('/')[0]}; give another"):
        server.run(workflow())
    assert (out / name).read_text() == "mine" and not server.prompts


def test_a_batch_is_put_side_by_side(server, out):
    server.run(workflow('[[axes]]\n"Paint.text" = ["two"]'))
    server.run_queue()
    assert ap.load_study(out).picture(0).size == (12, 4)


def test_a_cell_counts_by_what_its_file_holds(server, folders, out):
    file = folders.root / "input" / "a.png"
    study = '[[axes]]\n"Paint.red" = [1]'
    ids = set()
    for content in (b"one", b"another", b"one"):
        file.write_bytes(content)
        prompt = workflow(study)
        prompt["1"]["inputs"]["file"] = "a.png"
        server.run(prompt)
        server.run_queue()
        ids.add(ap.load_study(out)[0]["id"])
    assert len(ids) == 2 and Paint.runs == 2


@pytest.mark.parametrize(
    ("name", "text"), [("text", "a.png"), ("file", "{root}/secret"), ("file", "../secret")]
)
def test_no_other_file_is_read(server, folders, out, name, text):
    """Texts that happen to name a file, and files out of the host's folders."""
    (folders.root / "input" / "a.png").write_bytes(b"one")
    (folders.root / "secret").write_bytes(b"two")
    text = text.format(root=folders.root)
    prompt = workflow('[[axes]]\n"Paint.red" = [1]')
    prompt["1"]["inputs"][name] = text
    server.run(prompt)
    server.run_queue()
    assert ap.load_study(out).metadata(0)["cell"]["nodes"]["1"]["inputs"][name] == text


def test_a_study_may_be_a_file(server, folders, out):
    (folders.root / "input" / "colours.toml").write_text(STUDY)
    server.run(workflow("colours.toml"))
    server.run_queue()
    assert len(ap.load_study(out)) == 6


def axis(name, *values):
    shown = ", ".join(json.dumps(value) for value in values)
    return f"[[axes]]\n{json.dumps(name)} = [{shown}]"


@pytest.mark.parametrize(
    ("study", "more", "message"),
    [
        (axis("Paint.rad", 1), {}, "Paint: expected one of .*, got 'rad'; did you mean 'red'"),
        (axis("Pant.red", 1), {}, "got 'Pant.red'; did you mean 'Paint.INPUT'"),
        (axis("1.red", 1) + "\n'Paint.red' = [2]", {}, "each input once, got '1.red' and"),
        (axis("2.at_most", 1), {}, "axes: expected one of Paint.INPUT, got '2.at_most'"),
        (axis("Paint.red", 256), {}, "Paint.red: expected 0 to 255, got 256"),
        (axis("Paint.red", 1.5), {}, "Paint.red: expected a whole number, got 1.5"),
        (axis("Paint.red", True), {}, "Paint.red: expected a whole number, got True"),
        (axis("Paint.dark", 1), {}, "Paint.dark: expected true or false, got 1"),
        (axis("Paint.text", 1), {}, "Paint.text: expected a text, got 1"),
        (axis("Paint.red", [1, 2]), {}, r"expected a text, a number, true or false, got \[1, 2\]"),
        (axis("Paint.mode", "stripes"), {}, "got 'stripes'; did you mean 'striped'"),
        (axis("Paint.file", "c.png"), {"file": "a.png"}, "expected one of a.png, b.png"),
        (axis("1.below", "x"), {"below": ["4", 0]}, "got one for a link to IMAGE"),
        ("axis = 1", {}, "study: expected one of axes, name, got 'axis'; did you mean 'axes'"),
        ("name = ", {}, "study: "),
        (axis("Paint.red", *range(101)), {}, "expected at most 100 cells, got 101; raise at_most"),
        ("../secret.toml", {}, "study: expected a path in the input folder"),
        ("none.toml", {}, "study: expected a file that is there, got 'none.toml'"),
    ],
)
def test_wrong_studies_are_errors_before_anything_is_queued(server, out, study, more, message):
    prompt = workflow(study)
    prompt["1"]["inputs"] |= more
    if "below" in more:
        prompt["4"] = copy.deepcopy(PROMPT["1"])
    server.run(prompt)
    (error,) = server.errors
    assert re.search(message, str(error)), error
    assert server.prompts == [] and not out.exists()


def test_a_title_names_a_node(server, out):
    prompt = workflow('[[axes]]\n"My v1.5 node.red" = [7]')
    prompt["1"]["_meta"] = {"title": "My v1.5 node"}
    server.run(prompt)
    server.run_queue()
    assert server.errors == [] and ap.load_study(out)[0]["My v1.5 node.red"] == 7


def test_two_nodes_of_one_name_need_an_id(server):
    prompt = workflow()
    prompt["4"] = copy.deepcopy(prompt["1"])
    prompt["1"]["inputs"]["below"] = ["4", 0]
    server.run(prompt)
    assert "got 'Paint.red' of the nodes 1 and 4; an id names one, as in '1.red'" in str(
        server.errors[0]
    )


def test_nothing_stays_queued_where_the_server_refuses_a_cell(server, out):
    about = {"1": {"errors": [{"message": "Value not in list", "details": "red"}]}}
    server.refuse = lambda prompt: (
        {"error": {}, "node_errors": about} if prompt["1"]["inputs"]["red"] == 255 else None
    )
    server.run(workflow())
    (error,) = server.errors
    assert "the server does not take the cell {'Paint.red': 255, 'Paint.part': 0.0}" in str(error)
    assert "node 1: Value not in list: red" in str(error)
    assert server.prompts == [] and not out.exists()


@pytest.mark.parametrize("folder", ["../x", "/tmp/x", "", ".", "a/../../x"])
def test_results_stay_in_the_output_folder(server, folders, folder):
    server.run(workflow(folder=folder))
    assert "folder: expected a path in the output folder" in str(server.errors[0])
    with pytest.raises(ValueError, match="folder: expected a path in the output folder"):
        run("AttentionPatchesSweepResults", folder=folder)
    assert not (folders.root / "x").exists() and server.prompts == []


def test_a_sweep_does_not_queue_a_sweep(server):
    prompt = workflow()
    prompt["1"]["inputs"]["below"] = ["3", 0]
    results = {"folder": ["5", 0], "cells": "", "at_most": 1}
    prompt["3"] = {"class_type": "AttentionPatchesSweepResults", "inputs": results}
    prompt["5"] = copy.deepcopy(prompt["2"])
    prompt["5"]["inputs"] |= {"images": ["6", 0], "folder": "other", "study": axis("6.red", 1)}
    prompt["6"] = copy.deepcopy(PROMPT["1"])
    server.run(prompt)
    assert "images: expected nodes without a sweep, got one in 5" in str(server.errors[0])


def test_the_reader_gives_chosen_cells(server, folders):
    server.run(workflow())
    server.run_queue()

    def read(cells="", **more):
        return run("AttentionPatchesSweepResults", folder="out/colours", cells=cells, **more)

    images, sheet, table, count = read()["result"]
    assert images.shape == (6, 4, 6, 3) and images.dtype == torch.float32 and count == 6
    assert sheet.shape[0] == 1 and sheet.shape[-1] == 3 and table.count("\n") == 7
    images, _, table, count = read('"Paint.red" = 255\n"Paint.part" = [0.5, 1.0]')["result"]
    assert count == 2 and images.shape[0] == 2 and "255,0.5" in table
    assert images[..., 0].min() == 1.0
    assert torch.allclose(images[:, 0, 0, 1], torch.tensor([0.5, 1.0]), atol=1 / 255)
    images, _, table, count = read(at_most=2)["result"]
    assert images.shape[0] == 2 and count == 6 and table.count("\n") == 7
    with pytest.raises(ValueError, match=r"got 'Paint\.rad'; did you mean 'Paint\.red'"):
        read('"Paint.rad" = 1')
    with pytest.raises(ValueError, match="cells: expected some that are done, got none of the 6"):
        read('"Paint.red" = 77')
    with pytest.raises(FileNotFoundError, match="expected the results of a sweep"):
        run("AttentionPatchesSweepResults", folder="nothing")


def test_the_reader_runs_again_when_more_is_done(server):
    from attnpatch.nodes import NODE_CLASS_MAPPINGS

    state = NODE_CLASS_MAPPINGS["AttentionPatchesSweepResults"].IS_CHANGED
    server.run(workflow())
    seen = set()
    for _ in range(3):
        seen.add(state(folder="out/colours", cells="", at_most=64))
        server.run_queue(1)
    assert len(seen) == 3


def test_the_reader_takes_results_of_the_command(server, folders):
    windows = ([0.0, 0.5], [0.5, 1.0])
    axes = {"style.window": windows, "seed": [0, 1]}
    keys = [(torch.ones(1, 1, 8), torch.ones(1, 1, 8))]
    style = ap.ImagePrompt.from_keys_values(keys)
    study = ap.Study("a model", {"style": style}, axes, {"size": [4, 6]})
    store = Store(folders.root / "output/theirs")
    cells = study.cells()
    for number, cell in enumerate(cells):
        record = {"id": cell.id, "place": plain(cell.place), "pipeline": {}, "patched": True}
        record |= {"file": picture_name(cell.id), "seconds_per_step": 1.0, "measures": {}}
        record |= {"rows": 1, "steps": 1}
        side = 4 + 2 * (number % 2)
        store.write(record["file"], to_png(np.full((side, 6, 3), 255, np.uint8), {}))
        write_records(store, [record])
    study.save(store.folder / "study.toml")
    write_order(store, [Entry(cell.id, (cell.place,)) for cell in cells])
    images, _, _, count = run("AttentionPatchesSweepResults", folder="theirs")["result"]
    assert count == 4 and images.shape == (4, 6, 6, 3)
    assert images[0, 0].max() == 0 and images[0, 1:5].min() == 1  # in the middle of black
    chosen = '"style.window" = [0.5, 1.0]\nseed = [1]'
    *_, table, count = run("AttentionPatchesSweepResults", folder="theirs", cells=chosen)["result"]
    assert count == 1 and "[0.5, 1.0]" in table


def test_outside_of_a_server_it_says_so(folders):
    with pytest.raises(RuntimeError, match="a sweep is queued by ComfyUI's server"):
        run("AttentionPatchesSweep", **PROMPT["2"]["inputs"] | {"images": None}, prompt=PROMPT,
            extra_pnginfo=None, unique_id="2")  # fmt: skip
