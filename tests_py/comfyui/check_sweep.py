# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The real server runs a sweep that a node of its own queued, and resumes it."""

from __future__ import annotations

import csv
import io
import itertools
import json
import time

import numpy as np
import pytest
from PIL import Image
from real_server import EXAMPLES, RUN_WORK, example, pictures, running, small, write_files

import attnpatch as ap

(EXAMPLE,) = (path for path in EXAMPLES if path.stem == "sweep")


@pytest.fixture(scope="module", params=["V1", "V3"])
def base(request, tmp_path_factory):
    base = tmp_path_factory.mktemp(request.param)
    write_files(base)
    return base, request.param


@pytest.fixture(scope="module")
def server(base):
    with running(*base) as found:
        found.base_folder = base[0]
        yield found


def workflow(**inputs):
    made = small(example(EXAMPLE))
    node_of(made, "KSampler")["inputs"]["steps"] = 6  # so that some are in a part of sampling
    node_of(made, "AttentionPatchesSweep")["inputs"] |= inputs
    return made


def node_of(workflow, kind):
    return next(node for node in workflow.values() if node["class_type"] == kind)


def wait_until_empty(server):
    patience = server.patience(4 * RUN_WORK)
    while server.json("/prompt")["exec_info"]["queue_remaining"]:
        assert patience.lasts(), server.log.read_text()[-3000:]
        time.sleep(0.2)


def failures(server):
    return [one["status"] for one in server.json("/history").values()
            if one["status"]["status_str"] == "error"]  # fmt: skip


@pytest.fixture(scope="module")
def swept(server):
    """The example's results, and the entry of the run that the last cell was followed by."""
    first = server.run(workflow())
    assert first["status"]["status_str"] == "success", first["status"]
    said = json.dumps(first["outputs"])
    assert "12 cells, 0 done, 12 queued" in said
    wait_until_empty(server)
    history = server.json("/history")
    assert len(history) == 1 + 12 + 1 and failures(server) == []
    last = max(history.values(), key=lambda one: one["prompt"][0])
    return ap.load_study(server.base_folder / "output" / "sweep"), last


def test_every_cell_is_there_once(swept, server):
    results, last = swept
    axes = [f"IPAdapterAdvanced.{name}" for name in ("weight", "start_at", "end_at")]
    found = [tuple(row[name] for name in (*axes, "KSampler.seed")) for row in results]
    expected = itertools.product((0.4, 0.7, 1.0), ((0.0, 1.0), (0.2, 0.8)), (1, 2))
    assert found == [(weight, *window, seed) for weight, window, seed in expected]
    shown = {results.picture(place).tobytes() for place in range(12)}
    assert len(shown) == 12 and results.picture(0).size == (128, 192)
    # What follows the last cell shows the sheet, in the node and in the one behind the reader.
    assert "12 of 12 cells done" in json.dumps(last["outputs"])
    sizes = [picture.size for picture in pictures(server, last)]
    assert len(sizes) == 2 and sizes[0] == sizes[1] == results.sheet().size
    folder = server.base_folder / "output" / "sweep"
    rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    assert [row["id"] for row in rows] == [row["id"] for row in results]
    assert (folder / "index.html").is_file()


def test_a_cell_is_the_picture_of_its_workflow(swept, server):
    """As its PNG gives it to ComfyUI, with a plain node in place of the sweep."""
    results, _ = swept
    folder = server.base_folder / "output" / "sweep"
    with Image.open(folder / results[5]["file"]) as image:
        prompt, kept = json.loads(image.text["prompt"]), np.asarray(image, int)
    assert not [n for n in prompt.values() if n["class_type"].startswith("AttentionPatchesSweep")]
    (again,) = pictures(server, server.run(prompt))
    assert np.abs(np.asarray(again, int) - kept).max() <= 1  # one rounds, the other cuts off
    stack = ap.stack_from_png(folder / results[5]["file"])
    assert len(stack) == 1 and isinstance(stack[0], ap.ImagePrompt)
    assert (stack[0].start, stack[0].end) == (0.0, 1.0)
    assert results.metadata(5)["versions"]["comfyui"]


def test_it_resumes(swept, server):
    results, _ = swept
    folder = server.base_folder / "output" / "sweep"
    missing = folder / results[3]["file"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("pictures/*/*.png")}
    old = np.asarray(Image.open(missing), int)
    missing.unlink()
    assert "12 cells, 11 done, 1 queued" in json.dumps(server.run(workflow())["outputs"])
    wait_until_empty(server)
    assert np.abs(np.asarray(Image.open(missing), int) - old).max() <= 1
    del before[missing]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert "12 of 12 cells done" in json.dumps(server.run(workflow())["outputs"])
    assert server.json("/prompt")["exec_info"]["queue_remaining"] == 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"study": '[[axes]]\n"KSampler.sed" = [1]'}, "did you mean 'seed'"),
        ({"study": '[[axes]]\n"KSampler.sampler_name" = ["eular"]'}, "did you mean 'euler'"),
        ({"study": '[[axes]]\n"KSampler.cfg" = [101.0]'}, "KSampler.cfg: expected 0.0 to 100.0"),
        ({"study": '[[axes]]\n"LoadImage.image" = ["none.png"]'}, "the server does not take"),
        ({"at_most": 11}, "expected at most 11 cells, got 12"),
        ({"folder": "../elsewhere"}, "folder: expected a path in the output folder"),
    ],
)
def test_errors_come_before_anything_is_queued(server, inputs, message):
    entry = server.run(workflow(**inputs))
    (failed,) = [m for kind, m in entry["status"]["messages"] if kind == "execution_error"]
    assert failed["node_type"] == "AttentionPatchesSweep"
    assert message in failed["exception_message"], failed["exception_message"]
    assert server.json("/prompt")["exec_info"]["queue_remaining"] == 0
    assert not (server.base_folder / "elsewhere").exists()
