# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What people look at: the page in a real browser, from the disk, and the contact sheet."""

import numpy as np
import pytest

import attnpatch as ap
from attnpatch.studies.results.png import to_png
from attnpatch.studies.results.publish import publish
from attnpatch.studies.results.records import Entry, picture_name
from attnpatch.studies.results.sheet import section_of
from attnpatch.studies.results.store import Store
from real_browser import PATIENCE, needs_chromium

FASHION = "attnpatch/fashion"
STYLE = {"kind": "ImagePrompt", "adapter": FASHION, "picture": f"{FASHION}:3"}
BY_ROW = {"style.weight": [0.2, 0.4, 0.6], "style.mask": [None, [0, 0, 0.5, 1]], "seed": [0, 1]}


def records_of(study, store):
    """Records and pictures of a study, made without a model."""
    found = {}
    cells = [*study.cells(), *{cell.without_patches for cell in study.cells()}]
    for number, cell in enumerate(cells):
        name = picture_name(cell.id)
        store.write(name, to_png(np.full((8, 8), 40 * (number % 5), np.uint8), {}))
        found[cell.id] = {
            "id": cell.id,
            "place": dict(cell.place),
            "pipeline": {},
            "patched": bool(cell.patches),
            "file": name,
            "seconds_per_step": 0.5,
            "rows": 1,
            "steps": 1,
            "measures": {"distance": 0.125},
        }
    return [Entry(cell.id, (cell.place,), bool(cell.patches)) for cell in cells], found


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of a study; the console stays clean, and nothing comes from elsewhere."""
    contexts, wrong = [], []

    def page_of(axes, **options):
        study = ap.Study(FASHION, {"style": STYLE}, axes, name="a </script> & more")
        store = Store(tmp_path / "a #1 %20")
        publish(study, *records_of(study, store), store)
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda said: wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.goto((store.folder / "index.html").as_uri())
        page.wait_for_selector(".cell img")
        return page

    yield page_of
    for context in contexts:
        context.close()
    assert wrong == []


def labels(page):
    return page.locator("thead th").all_text_contents()


@pytest.mark.slow
@needs_chromium
def test_two_pictures_are_compared_by_keyboard(opened):
    page = opened(BY_ROW)
    assert "Choose two pictures to compare them." in page.text_content("#about")
    first, second = page.locator(".cell").nth(0), page.locator(".cell").nth(2)
    first.press("Enter")
    assert first.get_attribute("aria-pressed") == "true"
    assert page.locator("#compare").is_hidden()
    second.press("Enter")
    assert page.locator("#compare").is_visible()
    changed = page.locator("#facts tr.differs td:first-child").all_text_contents()
    assert changed == ["style.weight", "id"]
    assert page.locator("#facts tr", has_text="style.mask").text_content().endswith("nonenone")
    page.keyboard.press("Escape")
    assert page.locator("#compare").is_hidden()
    assert first.get_attribute("aria-pressed") == "false"


@pytest.mark.slow
@needs_chromium
def test_another_view_keeps_the_size(opened):
    page = opened(BY_ROW)
    size = page.locator("#controls label", has_text="size").locator("input")
    size.fill("3")
    page.select_option("#controls select >> nth=0", "list")
    assert page.locator("#controls label", has_text="size").text_content() == "sizeXL"
    assert page.locator(".cell img").first.bounding_box()["width"] == 380


@pytest.mark.slow
@needs_chromium
def test_pictures_of_a_row_stand_at_one_height(opened):
    """Whatever the length of what is written under them."""
    prompts = ["", "bag", "ankle boot", "t-shirt"]
    drawn = {"style.weight": {"low": 0.1, "high": 1}, "prompt": prompts, "style.mask": [None]}
    page = opened(ap.Axes.random(drawn, 6), viewport={"width": 1400, "height": 900})
    boxes = [image.bounding_box() for image in page.locator("#list .cell img").all()]
    assert len(boxes) > 6 and len({box["y"] for box in boxes[:6]}) == 1
    words = page.locator("#list .cell small").first.text_content()
    assert "style.mask none" in words and len(words.split("weight ")[1].split(",")[0]) <= 6


@pytest.mark.slow
@needs_chromium
def test_names_of_both_axes_are_there(opened):
    page = opened({"style.weight": [0.2, 0.123456789], "style.repeat_last": [True, False]})
    assert labels(page) == ["style.repeat_last ↓style.weight →", "0.2", "0.1235"]
    # The name of each has the column's width, and nothing of it is cut.
    for span in page.locator("thead th span").all():
        assert span.evaluate("it => it.scrollWidth <= it.clientWidth")


@pytest.mark.slow
@needs_chromium
def test_one_cell_has_nothing_to_choose(opened):
    page = opened({})
    assert page.locator("#controls select").count() == 1
    assert page.locator(".cell").count() == 2


def captions_of(study, records, store):
    """What stands under each picture of the sheet, line by line."""
    rows = section_of(study, records, store).rows
    return [[tile.caption, *tile.note.split("\n")] for row in rows for tile in row]


def test_a_part_of_many_pictures_shows_every_value(tmp_path):
    """Each second one of a grid would leave out each second value of its last axis."""
    store = Store(tmp_path)
    study = ap.Study(FASHION, {"style": STYLE}, {"seed": range(360), "style.on": [True, False]})
    _, found = records_of(ap.Study(FASHION, {"style": STYLE}), store)
    records = [{**next(iter(found.values())), "place": dict(cell.place)} for cell in study.cells()]
    lines = [
        [f"on {str(on).lower()}", f"seed {seed}", "distance 0.125"]
        for seed in range(360)
        for on in (True, False)
    ]
    shown = captions_of(study, records, store)
    assert len(shown) == 240 and [one for one in lines if one in shown] == shown
    assert shown == captions_of(study, records, store)
    assert 90 < sum(caption == "on true" for caption, *_ in shown) < 150
    assert captions_of(study, records[:240], store) == lines[:240]


def test_a_caption_has_a_line_for_each_axis(tmp_path):
    store = Store(tmp_path)
    axes = {"style.weight": [0.123456], "other.weight": [1.0], "style.mask": [None], "prompt": [""]}
    axes |= {"other.picture": [["a/b/one.png", "two.png"]]}
    other = {"kind": "ImagePrompt", "adapter": FASHION}
    study = ap.Study(FASHION, {"style": STYLE, "other": other}, axes)
    _, records = records_of(study, store)
    lines = ["prompt “”", "mask none", "other.weight 1", "style.weight 0.1235", "distance 0.125"]
    (shown,) = captions_of(study, list(records.values())[:1], store)
    assert shown == ["picture [one.png, two.png]", *lines]
