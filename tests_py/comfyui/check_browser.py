# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The example workflows in ComfyUI's own editor: all nodes known, drawn apart, and no error.

Needs playwright and a Chromium. Pictures of the editor lie in ``out/workflows`` afterwards.
"""

from __future__ import annotations

import itertools
import json
from importlib.metadata import version

import pytest
from packaging.version import Version
from PIL import Image
from real_server import HERE, PACK, running

from real_browser import needs_chromium

pytestmark = needs_chromium

EXAMPLES = sorted((PACK / "example_workflows").glob("*.json"))
PICTURES = HERE.parents[1] / "out" / "workflows"
EDITOR_PATIENCE = 600_000  # milliseconds: some megabytes of scripts, on a busy machine
WINDOW = {"width": 2560, "height": 1440}
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # texts however small
}
# Where the files that the examples name belong, by the inputs that name them.
FOLDERS = {
    "ckpt_name": "models/checkpoints",
    "ipadapter_file": "models/ipadapter",
    "clip_name": "models/text_encoders",
    "clip_name1": "models/text_encoders",
    "clip_name2": "models/text_encoders",
    "unet_name": "models/diffusion_models",
    "vae_name": "models/vae",
    "image": "input",
}

# Editors of 2025 do not mark a node whose file is missing before it is queued.
MARKS_FILES = Version(version("comfyui_frontend_package")) >= Version("1.47")

# Of the graph as the editor has it: boxes with their titles (left, top, width, height), in its own
# measures.
SEEN = """() => app.graph.nodes.map(node => {
    const box = new Float32Array(4);
    node.measure(box);
    return {
        type: node.type,
        known: node.type in LiteGraph.registered_node_types,
        error: Boolean(node.has_errors),
        box: [...box],
    };
})"""
API = "async () => (await app.graphToPrompt()).output"
READY = "() => window.app?.extensionManager && window.app.graph && window.app.canvas"
FIT = "() => app.canvas.fitViewToSelectionAnimated({duration: 1, zoom: 0.8})"
# How the editor's measures become those of the window.
VIEW = """() => {
    const {offset, scale} = app.canvas.ds, place = app.canvas.canvas.getBoundingClientRect();
    return {scale, left: offset[0] * scale + place.x, top: offset[1] * scale + place.y};
}"""


def read_api(path):
    return json.loads((path.parent / "api" / path.name).read_text(encoding="utf-8"))


def write_stand_in(file):
    """Write a picture, or an empty file for a model: the editor asks whether it is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".png":
        Image.radial_gradient("L").convert("RGB").resize((512, 512)).save(file)
    else:
        file.touch()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("editor")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    for path in EXAMPLES:
        for node in read_api(path).values():
            named = {k: v for k, v in node["inputs"].items() if isinstance(v, str)}
            for name in named.keys() & FOLDERS.keys():
                folder = FOLDERS[name]
                if node["class_type"] == "CLIPVisionLoader":
                    folder = "models/clip_vision"
                write_stand_in(base / folder / named[name])
    with running(base, front_end=True) as found:
        yield found


@pytest.fixture
def page(server, browser):
    """The editor, which reaches nothing but the server, and what goes wrong once it stands."""
    found = browser.new_page(viewport=WINDOW)
    found.set_default_timeout(EDITOR_PATIENCE)
    found.wrong = []
    local = f"{server.base}/"
    found.route(
        "**/*",
        lambda route: route.continue_() if route.request.url.startswith(local) else route.abort(),
    )
    found.goto(server.base)
    found.wait_for_function(READY)
    found.wait_for_load_state("networkidle")
    found.on("pageerror", lambda error: found.wrong.append(str(error)))
    found.on("console", lambda message: hear(found, message))
    yield found
    found.close()


def hear(page, message):
    """Keep errors, but for what the editor asks of elsewhere, or of files that need not be."""
    unreachable = ("Failed to load resource", "Content Security Policy", "Failed to fetch")
    if message.type == "error" and not any(part in message.text for part in unreachable):
        page.wrong.append(message.text)


@pytest.fixture
def opened(page, path):
    text = path.read_text(encoding="utf-8")
    page.evaluate("async text => await app.loadGraphData(JSON.parse(text))", text)
    page.evaluate(FIT)
    page.wait_for_timeout(1000)  # until it is drawn
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{path.stem}.png", clip=find_graph(page))
    return page


def find_graph(page, margin=20):
    """Find the part of the window where the graph is, with a margin."""
    view, boxes = page.evaluate(VIEW), [node["box"] for node in page.evaluate(SEEN)]
    start = [min(box[axis] for box in boxes) for axis in (0, 1)]
    end = [max(box[axis] + box[axis + 2] for box in boxes) for axis in (0, 1)]
    return {
        "x": start[0] * view["scale"] + view["left"] - margin,
        "y": start[1] * view["scale"] + view["top"] - margin,
        "width": (end[0] - start[0]) * view["scale"] + 2 * margin,
        "height": (end[1] - start[1]) * view["scale"] + 2 * margin,
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_opens_in_the_editor(opened, path):
    wanted = json.loads(path.read_text(encoding="utf-8"))
    seen = opened.evaluate(SEEN)
    assert [node["type"] for node in seen] == [node["type"] for node in wanted["nodes"]]
    assert [node["type"] for node in seen if not node["known"] or node["error"]] == []
    for one, other in itertools.combinations(seen, 2):
        assert are_apart(one["box"], other["box"]), f"{one['type']} and {other['type']}"
    # What the editor would queue is what the file for programs says.
    queued = opened.evaluate(API)
    for node in queued.values():
        node.pop("_meta", None)
        if node["class_type"] == "PreviewAny":
            node["inputs"].pop("preview", None)  # the text box that older editors add
    assert queued == read_api(path)
    assert opened.wrong == []


def are_apart(one, other):
    """Whether two boxes (left, top, width, height) share no inner point."""
    return any(
        a[axis] + a[axis + 2] <= b[axis] for a, b in ((one, other), (other, one)) for axis in (0, 1)
    )


def open_node(page, node_type, values=()):
    """Open a graph of one node."""
    node = {"id": 1, "type": node_type, "pos": [0, 0], "size": [200, 100], "flags": {}}
    node |= {"order": 0, "mode": 0, "inputs": [], "outputs": [], "properties": {}}
    node |= {"widgets_values": list(values)} if values else {}
    graph = {"last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": [], "groups": []}
    page.evaluate("async graph => await app.loadGraphData(graph)", graph | {"version": 0.4})


def test_a_node_that_is_not_there_is_seen(page):
    """By what the check above looks at."""
    open_node(page, "NoSuchNode")
    (seen,) = page.evaluate(SEEN)
    assert not seen["known"]


@pytest.mark.skipif(not MARKS_FILES, reason="this ComfyUI has no marks of missing files")
def test_a_file_that_is_not_there_is_seen(page):
    open_node(page, "IPAdapterModelLoader", ["none.safetensors"])
    page.wait_for_function("() => app.graph.nodes[0].has_errors")
