# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Cards and an interactive cell in the real JupyterLab, in a browser."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupyterlab")
pytest.importorskip("ipywidgets")
sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
]
LONG = 240_000  # milliseconds until a test gives up
CELLS = (
    """import attnpatch as ap
from attnpatch.demo.clothes import load_clothes
clothes = load_clothes()
prompt = ap.ImagePrompt.from_pictures(clothes.adapter, clothes.pictures[1], clothes.encoder)
prompt""",
    """cell = ap.explore(clothes.pipeline, prompt, steps=2)
cell""",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A server of JupyterLab with one notebook; the notebook's address."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "cells.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    program = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    options = {"port": port, "token": "t", "root_dir": folder, "ip": "127.0.0.1"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*program, *(f"--ServerApp.{name}={value}" for name, value in options.items())],
            env={
                **os.environ,
                **{f"JUPYTER_{name}_DIR": path for name, path in own.items()},
                "OMP_NUM_THREADS": "1",
            },
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(LONG // 1000):
            try:
                json.load(urllib.request.urlopen(f"{address}/api?token=t"))
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(1)
        yield f"{address}/lab/tree/cells.ipynb?token=t"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def page(lab):
    """The notebook in a browser, its cells run."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1600})
        page.set_default_timeout(LONG)
        page.goto(lab)
        page.locator(".jp-CodeCell").nth(1).wait_for()
        page.get_by_text("| Idle").wait_for()  # the kernel is there
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        yield page
        browser.close()


def test_a_card_and_an_interactive_cell(page):
    card = page.locator(".jp-OutputArea .attnpatch").first
    card.wait_for(state="visible")
    assert "ImagePrompt" in card.inner_text()
    assert not page.locator(".attnpatch-plain").first.is_visible()
    preview = page.locator(".widget-html .attnpatch img")
    preview.nth(1).wait_for(state="visible")
    before = [preview.nth(i).get_attribute("src") for i in range(2)]
    handle = page.locator(".widget-slider", has_text="weight").locator(".noUi-handle")
    handle.focus()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    changed = "before => document.querySelectorAll('.widget-html .attnpatch img')[1].src != before"
    page.wait_for_function(changed, arg=before[1])
    assert preview.nth(0).get_attribute("src") == before[0], "without patches all stays as it was"
    page.locator(".jp-Collapse-header, .jupyter-widget-Collapse-header").last.click()
    code = page.locator(".widget-textarea textarea")
    code.wait_for(state="visible")
    assert "stack[0].replace(weight=0." in code.input_value()
