# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A cell of `explore` in JupyterLab, in a real browser: move, see, draw, copy, run, stop."""

import json
import os
import subprocess
import sys
import time

import pytest

from real_browser import PATIENCE, browsing, needs_chromium

pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
pytest.importorskip("anywidget")
pytestmark = [pytest.mark.slow, needs_chromium]

QUICK = """\
import time
import numpy as np, torch
import attnpatch as ap
from attnpatch.demo.clothes import load_clothes

clothes = load_clothes()
pipe = clothes.pipeline
boot = ap.ImagePrompt.from_pictures(clothes.adapter, clothes.pictures[1], clothes.encoder)
cell = ap.explore(pipe, [boot], prompt="bag", steps=2)
cell"""
SLOW = """\
def slowly(pipeline, steps):
    noise = torch.Generator().manual_seed(0)
    for _ in range(3000):
        time.sleep(0.1)
        images = pipeline(num_inference_steps=1, generator=noise).images
    return images

slow = ap.explore(pipe, [boot], generate=slowly)
slow"""
COMPARE = """
print("the very picture:", np.array_equal(images[0], cell.pictures[0]))
print("drawn:", cell.stack[0].mask.mean().item() > 0, "plain:", boot.mask)"""

READY = """() => {
    const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
    return context?.isReady && context.session?.kernel?.status === "idle";
}"""


def notebook(*sources):
    cells = [
        {"cell_type": "code", "id": f"cell-{place}", "metadata": {}, "source": source}
        | {"outputs": [], "execution_count": None}
        for place, source in enumerate(sources)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4}
    return json.dumps(whole | {"nbformat_minor": 5})


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a notebook in a running JupyterLab."""
    home = tmp_path_factory.mktemp("jupyter")
    (home / "explore.ipynb").write_text(notebook(QUICK, SLOW))
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    folders = {f"JUPYTER_{name}": str(home / name) for name in names} | {"HOME": str(home)}
    options = ["--no-browser", "--port=0", "--allow-root", "--IdentityProvider.token=secret"]
    options += [f"--ServerApp.root_dir={home}", "--LabApp.expose_app_in_browser=True"]
    log = home / "log.txt"
    with log.open("w") as heard:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env={**os.environ, **folders, "OMP_NUM_THREADS": "1"},
            stdout=heard,
            stderr=heard,
        )
    try:
        said = home / "RUNTIME_DIR" / f"jpserver-{process.pid}.json"
        while not said.exists():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        port = json.loads(said.read_text())["port"]
        yield f"http://127.0.0.1:{port}/lab/tree/explore.ipynb?token=secret"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def page(lab):
    with browsing() as browser:
        context = browser.new_context(viewport={"width": 1400, "height": 2400})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(lab)
        page.wait_for_function(READY)
        yield page


def execute(page, command):
    page.evaluate("name => { window.jupyterapp.commands.execute(name); }", command)


def test_a_cell_in_jupyterlab(page):
    execute(page, "notebook:run-all-cells")
    quick, slow = (page.locator(".jp-CodeCell").nth(place) for place in (0, 1))
    picture = quick.locator("img[alt=with]")

    def changes_when(act):
        before = picture.get_attribute("src")
        act()
        page.wait_for_function(
            "old => !['', old].includes(document.querySelector('img[alt=with]')?.src ?? '')",
            arg=before,
        )

    picture.wait_for()
    weight = quick.locator(".widget-slider", has_text="weight").locator(".noUi-handle")
    changes_when(lambda: [weight.press("ArrowLeft") for _ in range(12)])
    assert quick.locator(".widget-slider", has_text="weight").inner_text().split()[-1] == "0.40"

    quick.locator(".widget-dropdown", has_text="mask").locator("select").select_option("drawn")
    quick.locator("canvas").wait_for()  # until it is seen
    canvas = quick.locator("canvas").bounding_box()
    x, y = canvas["x"] + canvas["width"] / 4, canvas["y"] + canvas["height"] / 4

    def paint():
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x, y + canvas["height"] / 2, steps=5)
        page.mouse.up()

    changes_when(paint)

    quick.get_by_text("copy as code").click()
    quick.get_by_role("button", name="Copy", exact=True).click()
    quick.get_by_role("button", name="Copied").wait_for()
    code = page.evaluate("navigator.clipboard.readText()")
    assert code == quick.locator("textarea").input_value()
    assert "boot.replace(weight=0.4, mask=drawn_mask(" in code and "= ..." not in code

    stop = slow.get_by_role("button", name="Stop")
    slow.get_by_text("making a preview").wait_for()
    stop.click()
    slow.get_by_text("stopped").wait_for()
    assert stop.is_disabled() and slow.locator("img").count() == 0

    slow.locator(".jp-InputArea-editor").click()
    execute(page, "notebook:insert-cell-below")
    page.keyboard.press("Enter")
    page.evaluate("text => navigator.clipboard.writeText(text)", code + COMPARE)
    page.keyboard.press("Control+V")
    page.keyboard.press("Shift+Enter")
    last = page.locator(".jp-CodeCell").nth(2)
    last.get_by_text("the very picture: True").wait_for()
    last.get_by_text("drawn: True plain: None").wait_for()
