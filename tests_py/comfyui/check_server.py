# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The real server loads the pack, and its HTTP API turns our example workflows into pictures."""

from __future__ import annotations

import json

import pytest
from real_server import EXAMPLES, LOADERS, PACK, example, pictures, running, small, write_files

from attnpatch.nodes import NODES

HOSTS_OWN = {"SelfAttentionGuidance"}  # ids that the host keeps for nodes of its own
PICTURES = [path for path in EXAMPLES if path.stem != "sweep"]  # its check is check_sweep.py


@pytest.fixture(scope="module", params=["V1", "V3"])
def server(request, tmp_path_factory):
    base = tmp_path_factory.mktemp(request.param)
    write_files(base)
    with running(base, request.param) as found:
        yield found


def test_every_node_is_there_as_the_table_says(server):
    known = server.json("/object_info")
    for spec in NODES:
        shown = known[spec.id]
        if spec.id in HOSTS_OWN:
            assert shown["python_module"].startswith("comfy_extras.")
            continue
        assert shown["python_module"] == "custom_nodes.attnpatch_nodes"
        assert shown["display_name"] == spec.title and shown["category"] == spec.category
        assert shown["output"] == [output.type for output in spec.outputs]
        given = shown["input"].get("required", {}) | shown["input"].get("optional", {})
        assert list(given) == [i.id for i in spec.inputs]
        for wanted in spec.inputs:
            assert (wanted.id in shown["input"].get("optional", {})) == wanted.optional
            options = given[wanted.id][1]
            assert options["tooltip"] == wanted.tooltip
            for name, value in wanted.attributes().items():
                assert options[name] == value
    log = server.log.read_text()
    assert f"{PACK.name} module for custom nodes" not in log, log[-3000:]


def test_the_hosts_own_nodes_are_as_the_examples_say(server):
    known = server.json("/object_info")
    for path in EXAMPLES:
        for node in example(path).values():
            shown = known[node["class_type"]]["input"]
            assert shown.get("required", {}).keys() <= node["inputs"].keys()
            allowed = shown.get("required", {}) | shown.get("optional", {})
            assert node["inputs"].keys() <= allowed.keys()


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_an_example_ends_with_a_picture(server, path):
    workflow = small(example(path))
    loader = next(i for i, n in workflow.items() if n["class_type"] in LOADERS)
    name = workflow[loader]["inputs"].get("unet_name")
    there = server.json("/object_info")["TinyTransformer"]["input"]["required"]["unet_name"][0]
    if name is not None and name not in there:
        pytest.skip(f"this ComfyUI has no model for {name}")
    first = server.run(workflow)
    (picture,) = pictures(server, first)
    # An edited picture is as large as the one that is given.
    given = any(node["class_type"] == "VAEEncode" for node in workflow.values())
    assert (
        picture.size == ((256, 256) if given else (128, 192))
        and len(picture.getcolors(128 * 192)) > 100
    )
    assert "layers patched" in json.dumps(first["outputs"])
    sampler = next(i for i, node in workflow.items() if node["class_type"] == "KSampler")
    save = next(node for node in workflow.values() if node["class_type"] == "SaveImage")
    # Upstream stays cached: another seed, then the first one again, gives the first picture again.
    for seed, prefix in ((2, "second"), (1, "third")):
        workflow[sampler]["inputs"]["seed"] = seed
        save["inputs"]["filename_prefix"] = prefix
        (again,) = pictures(server, server.run(workflow))
        assert (again.tobytes() == picture.tobytes()) == (seed == 1)
    # Without the patch the picture is another.
    report = next(n for n in workflow.values() if n["class_type"] == "AttentionPatchesReport")
    report["inputs"]["model"] = [loader, 0]
    (plain,) = pictures(server, server.run(workflow))
    assert plain.tobytes() != picture.tobytes()


def test_the_templates_are_served(server):
    listed = server.json("/workflow_templates")
    if PACK.name not in listed:
        pytest.skip("this form is loaded from a folder without examples")
    assert sorted(listed[PACK.name]) == [path.stem for path in EXAMPLES]
    for path in EXAMPLES:
        served = server.get(f"/api/workflow_templates/{PACK.name}/{path.name}")
        assert served == (PACK / "example_workflows" / path.name).read_bytes()


def test_an_error_names_the_input_first(server):
    workflow = small(example(PACK / "example_workflows" / "api" / "image_prompt.json"))
    node = next(n for n in workflow.values() if n["class_type"] == "IPAdapterAdvanced")
    del node["inputs"]["clip_vision"]
    entry = server.run(workflow)
    failed = [m for kind, m in entry["status"]["messages"] if kind == "execution_error"]
    assert failed[0]["node_type"] == "IPAdapterAdvanced"
    assert failed[0]["exception_message"].startswith("clip_vision: ")


def test_a_value_out_of_range_is_refused(server):
    workflow = small(example(PACK / "example_workflows" / "api" / "image_prompt.json"))
    node = next(n for n in workflow.values() if n["class_type"] == "IPAdapterAdvanced")
    node["inputs"]["end_at"] = 1.5
    status, answer = server.post(workflow)
    assert status == 400 and "end_at" in json.dumps(answer["node_errors"])
