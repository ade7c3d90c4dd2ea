# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The folder for ComfyUI's custom_nodes: what it exports, and what the registry reads."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import attnpatch.nodes

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "comfyui" / "attnpatch_nodes"


def project(path):
    return tomllib.loads(path.read_text(encoding="utf-8"))


def load(folder):
    """Import a folder as ComfyUI does."""
    spec = importlib.util.spec_from_file_location(str(folder), folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_exports_the_nodes():
    module = load(FOLDER)
    assert module.NODE_CLASS_MAPPINGS is attnpatch.nodes.NODE_CLASS_MAPPINGS
    assert module.NODE_DISPLAY_NAME_MAPPINGS is attnpatch.nodes.NODE_DISPLAY_NAME_MAPPINGS


def test_a_copy_works_as_well(tmp_path):
    copy = shutil.copytree(FOLDER, tmp_path / "any name")
    assert load(copy).NODE_CLASS_MAPPINGS is attnpatch.nodes.NODE_CLASS_MAPPINGS


@pytest.mark.parametrize("form", ["link", "copy"])
def test_without_the_package_it_says_what_to_do(form, tmp_path):
    place = tmp_path / "custom_nodes" / "attnpatch_nodes"
    place.parent.mkdir()
    if form == "link":
        place.symlink_to(FOLDER, target_is_directory=True)
    else:
        shutil.copytree(FOLDER, place)
    # -S: no site-packages, so that the package is not there.
    code = f"import runpy; runpy.run_path({str(place / '__init__.py')!r})"
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", code],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: attnpatch's nodes: the package attnpatch is not installed")
    sources = ROOT if form == "link" else "FOLDER OF ATTNPATCH'S SOURCES"
    assert last.endswith(f'"{sys.executable}" -m pip install "{sources}"')


def test_an_error_inside_the_package_is_shown_as_it_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "attnpatch.nodes", None)
    with pytest.raises(ImportError, match=r"attnpatch\.nodes"):
        load(FOLDER)


def test_what_the_registry_reads():
    """Facts of the registry: a name without "ComfyUI", a version, the licence as a table."""
    ours, package = project(FOLDER / "pyproject.toml"), project(ROOT / "pyproject.toml")
    about = ours["project"]
    assert about["version"] == package["project"]["version"]
    assert about["requires-python"] == package["project"]["requires-python"]
    assert about["license"] == {"text": package["project"]["license"]}
    assert "comfyui" not in about["name"].lower() and len(about["name"]) < 100
    assert about["dependencies"] == (FOLDER / "requirements.txt").read_text().split("\n")[:-1]
    assert ours["tool"]["comfy"] == {"PublisherId": "", "DisplayName": package["project"]["name"]}


def test_no_address_is_made_up():
    """Nothing is published yet: an address, or an account, would be somebody else's."""
    for path in (FOLDER / "pyproject.toml", ROOT / "pyproject.toml"):
        assert "urls" not in project(path)["project"]
        assert "://" not in path.read_text(encoding="utf-8")
