# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The site has every public name, loads nothing from elsewhere, and its example runs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

import pytest

import attnpatch
import attnpatch.hosts

ROOT = Path(__file__).parents[2]
# What people run, not import.
PROGRAMS = {"attnpatch.demo", "attnpatch.playground"}


def public_modules():
    """attnpatch and its vision, the folders directly in it, and each host."""
    yield attnpatch
    yield attnpatch.vision
    for package in (attnpatch, attnpatch.hosts):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if found.ispkg and found.name not in PROGRAMS:
                yield importlib.import_module(found.name)


MODULES = list(public_modules())


@pytest.fixture
def site(monkeypatch):
    """Imports a module of the site's own code."""
    monkeypatch.syspath_prepend(ROOT / "docs/site")
    loaded = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - loaded:
        if str(ROOT / "docs/site") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def is_value(thing):
    return not (inspect.ismodule(thing) or inspect.isclass(thing) or inspect.isroutine(thing))


def test_the_public_modules_are_these():
    assert {"attnpatch", "attnpatch.engine", "attnpatch.ops", "attnpatch.hosts.diffusers"} <= {
        module.__name__ for module in MODULES
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference(site, module):
    entries = [(place, name) for place, name, _ in site("reference_pages").listed()]
    shown = [getattr(importlib.import_module(place), name) for place, name in entries]
    missing = [
        name
        for name in module.__all__
        if (module.__name__, name) not in entries
        # Also what the reference has under a shorter path.
        and (is_value(getattr(module, name)) or getattr(module, name) not in shown)
    ]
    assert missing == []


def test_the_reference_has_public_names_alone(site):
    for place, name, _ in site("reference_pages").listed():
        assert name in importlib.import_module(place).__all__, f"{place}.{name}"


def test_no_name_is_twice_in_the_reference(site):
    entries = [(place, name) for place, name, _ in site("reference_pages").listed()]
    assert len(entries) == len(set(entries))


def test_every_entry_says_something(site):
    for place, name, text in site("reference_pages").listed():
        value = getattr(importlib.import_module(place), name)
        if is_value(value):
            assert text, f"{place}.{name}: expected a text behind a colon"
        else:
            assert text == "" and inspect.getdoc(value), f"{place}.{name}: expected a docstring"


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://example.org/a.js"></script>',
        '<img src="//example.org/a.png">',
        '<link rel="stylesheet" href="http://example.org/a.css">',
        "<p style=\"background: url('https://example.org/a.png')\"></p>",
    ],
)
def test_a_page_that_loads_from_elsewhere_is_found(site, tmp_path, text):
    (tmp_path / "page.html").write_text(text)
    (found,) = site("local_only").remote_loads(tmp_path)
    assert found.startswith("page.html: ") and "//example.org/a." in found


def test_a_style_that_loads_from_elsewhere_is_found(site, tmp_path):
    (tmp_path / "a.css").write_text('@import "https://example.org/b.css"; a {src: url(b.woff2)}')
    assert site("local_only").remote_loads(tmp_path) == ["a.css: https://example.org/b.css"]


def test_links_and_local_files_are_no_loads(site, tmp_path):
    (tmp_path / "page.html").write_text(
        '<a href="https://example.org">x</a> <img src="a.png"> <img src="data:image/png;base64,AA">'
        '<link rel="stylesheet" href="a.css?v=1">'
    )
    assert site("local_only").remote_loads(tmp_path) == []


def test_dead_links_are_found(site, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a b.html").write_text('<p id="here"><a href="#here">x</a><a name="old"></a>')
    (tmp_path / "sub/index.html").write_text(
        '<a href="../a%20b.html#here">x</a> <a href="../a%20b.html#old">x</a> <a href="">x</a>'
        '<a href="../a%20b.html#gone">x</a> <img src="gone.png"> <a href="../sub/">x</a>'
        '<a href="https://example.org/x#y">x</a> <a href="mailto:a@example.org">x</a>'
    )
    assert site("dead_links").dead_links(tmp_path) == [
        "sub/index.html: ../a%20b.html#gone",
        "sub/index.html: gone.png",
    ]


def test_links_from_sources_lead_to_the_names_in_the_reference(site):
    back = '<a class="viewcode-back" href="../ref/engine.html#{}">[docs]</a>'
    anchors = {"attnpatch.engine.Skip": "ref/engine", "attnpatch.Report": "ref/engine"}
    for given, wanted in (
        ("attnpatch.Skip", back.format("attnpatch.engine.Skip")),
        ("attnpatch.Report", back.format("attnpatch.Report")),
        ("attnpatch.Gone", ""),
    ):
        assert site("sources").mended(back.format(given), anchors) == wanted


def test_the_code_for_plain_tensors_runs(capsys):
    text = (ROOT / "docs/hosts/tensors.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(block, names)
    assert "layers patched" in capsys.readouterr().out


def test_the_gallery_says_what_the_tool_writes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    gallery = importlib.import_module("gallery")
    monkeypatch.delitem(sys.modules, "gallery")
    page = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")
    assert page == gallery.write(gallery.SmallModel()), "run tools/gallery.py"
    pictures = {path.name for path in (ROOT / "docs/gallery").iterdir()}
    assert pictures == {f"{entry.name}.png" for entry in gallery.ENTRIES}
