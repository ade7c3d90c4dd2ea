# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: the main road, bad uploads and numbers, two tabs, stopping."""

import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from real_browser import PATIENCE, needs_chromium

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture
def new_page(browser, served):
    """Opens the page; nothing may be loaded from elsewhere, and the console stays clean."""
    contexts, wrong = [], []

    def opened():
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: elsewhere(request.url))
        page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        page.goto(served.address)
        page.wait_for_selector("#generate")
        return page

    def elsewhere(url):
        if not url.startswith((served.address, "data:", "blob:")):
            wrong.append(url)

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def field(page, label, value):
    page.get_by_label(label, exact=False).first.fill(str(value))


def generate(page):
    page.click("#generate")
    page.locator("#times", has_text="With patches").wait_for()
    page.wait_for_selector("#patched img")
    return page.locator("#times").inner_text()


def stop(page):
    """Stop what is being made; from then on the page hears the next click, its step over or not."""
    page.click("#stop")
    page.locator("#times", has_text="Stopped.").wait_for()


def download(page, name):
    """The content of one of the files that the page gives."""
    with page.expect_download() as started:
        page.locator(f"#files a[download='{name}']").click()
    with open(started.value.path(), "rb") as file:
        return file.read()


def pixels(content):
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("L"), np.int16)


def test_the_main_road(new_page, references, tmp_path):
    page = new_page()
    references[1].save(tmp_path / "pullover.png")
    page.locator("#picture-1 img").wait_for()
    page.get_by_role("button", name="Remove Image").click()
    page.locator("#picture-1 input[type=file]").set_input_files(tmp_path / "pullover.png")
    page.locator("#picture-1 img").wait_for()
    field(page, "Weight", 1)
    field(page, "Self-attention guidance", 0.5)
    page.get_by_text("Where it acts: paint a mask").first.click()
    canvas = page.locator("#mask-1 canvas").first
    canvas.wait_for()
    page.locator("#mask-1").get_by_role("button", name="Brush").click()
    box = canvas.bounding_box()
    left, middle = box["x"] + box["width"] / 2 - 60, box["y"] + box["height"] / 2
    page.mouse.move(left, middle - 60)
    page.mouse.down()
    page.mouse.move(left, middle + 60, steps=8)
    page.mouse.up()
    times = generate(page)
    assert times.count("ms") == 2 and "nan" not in times
    page.wait_for_selector("#seen img")

    with zipfile.ZipFile(io.BytesIO(download(page, "playground.zip"))) as archive:
        archive.extractall(tmp_path / "out")
    out = tmp_path / "out"
    shown = download(page, "picture.png")
    assert (out / "picture.png").read_bytes() == shown
    assert (out / "plain.png").read_bytes() != shown
    with Image.open(out / "mask-1.png") as mask:
        left, right = np.array_split(np.asarray(mask) > 127, 2, axis=1)
        assert left[left.shape[0] // 2].any() and not right[:, right.shape[1] // 4 :].any()
    script = (out / "make_picture.py").read_text()
    assert 'mask=mask("mask-1.png")' in script and "SelfAttentionGuidance(scale=0.5)" in script

    (out / "picture.png").unlink()
    done = subprocess.run(
        [sys.executable, "make_picture.py"], cwd=out, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (pixels((out / "picture.png").read_bytes()) == pixels(shown)).all()


def test_a_bad_upload_is_said_and_the_page_goes_on(new_page, tmp_path):
    page = new_page()
    (tmp_path / "bad.png").write_text("no picture at all")
    page.get_by_role("tab", name="Reference 2").click()
    page.locator("#picture-2 input[type=file]").set_input_files(tmp_path / "bad.png")
    page.wait_for_function("document.querySelector('#picture-2 img') !== null")
    page.click("#generate")
    said = page.get_by_text("reference 2: expected a picture, got bad.png")
    said.wait_for()
    assert str(tmp_path) not in page.content()
    page.locator("#picture-2").get_by_role("button", name="Remove Image").click()
    generate(page)


def test_two_tabs_at_once_get_their_own_pictures(new_page, model, references):
    pages = [new_page(), new_page()]
    for seed, page in enumerate(pages):
        field(page, "Weight", 1)
        field(page, "Seed", seed)
        field(page, "Steps", 30)
    for page in pages:
        page.click("#generate")
    for page in pages:
        page.locator("#times", has_text="With patches").wait_for()
    prompt = model.image_prompt(references[0], weight=1.0)
    for seed, page in enumerate(pages):
        wanted, _ = model.run([prompt], seed=seed, steps=30)
        assert (pixels(download(page, "picture.png")) == np.asarray(wanted, np.int16)).all()


def test_a_number_out_of_range_is_said_in_our_words(new_page):
    page = new_page()
    field(page, "Seed", -1)
    page.click("#generate")
    page.get_by_text("seed: expected 0 to 4294967295, got -1").wait_for()
    field(page, "Seed", "")
    field(page, "Steps", 3)
    generate(page)


def test_who_clicks_again_and_again_queues_once(new_page, held):
    page = new_page()
    joined = []
    page.on("request", lambda request: joined.append("/queue/join" in request.url))
    field(page, "Seed", held)
    page.dblclick("#generate")
    page.locator("#plain", has_text="step ").wait_for()
    with page.expect_response("**/run/predict"):  # it is heard before Stop is
        page.click("#generate")
    stop(page)
    field(page, "Seed", 1)
    field(page, "Steps", 3)
    generate(page)
    assert sum(joined) == 2, "once for the picture that was stopped"


def test_stopping_ends_ones_own_picture_and_the_queue_goes_on(new_page, held):
    stopped, waiting, served = (new_page() for _ in range(3))
    field(stopped, "Seed", held)
    for page in (waiting, served):
        field(page, "Steps", 3)
    stopped.click("#generate")
    stopped.locator("#plain", has_text="step ").wait_for()  # it is being made
    waiting.click("#generate")
    waiting.locator("#plain", has_text="queue").wait_for()
    served.click("#generate")
    served.locator("#plain", has_text="queue").wait_for()
    waiting.click("#stop")
    waiting.locator("#times", has_text="Stopped.").wait_for()
    stop(stopped)
    served.locator("#times", has_text="With patches").wait_for()
    assert waiting.locator("#times", has_text="With patches").count() == 0, "it left the queue"
    field(stopped, "Seed", 1)
    for page in (stopped, waiting):
        field(page, "Steps", 3)
        generate(page)
