# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The folder for ComfyUI's custom_nodes: what it exports, and what the registry reads."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from importlib import metadata
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


@pytest.fixture
def without_the_package(tmp_path):
    """Run the folder, at some place, where no package is installed; return the last line."""

    def run(place):
        # -S: no site-packages, so that the package is not there.
        code = f"import runpy; runpy.run_path({str(place / '__init__.py')!r})"
        done = subprocess.run(
            [sys.executable, "-S", "-E", "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode
        return done.stderr.strip().splitlines()[-1]

    return run


def sources(folder, *, wheel):
    """Make what a clone looks like from the folder, and a link to its folder for custom_nodes."""
    ours = folder / "clone" / "comfyui" / "attnpatch_nodes"
    shutil.copytree(FOLDER, ours)
    (folder / "clone" / "csrc").mkdir()
    if wheel:
        (folder / "clone" / "dist").mkdir()
        (folder / "clone" / "dist" / "attnpatch-0.1.0-cp312-cp312-linux_x86_64.whl").touch()
    link = folder / "custom_nodes"
    link.symlink_to(ours, target_is_directory=True)
    return link


PIP = f'"{sys.executable}" -m pip install'
MISSING = "ImportError: attnpatch's nodes: the package attnpatch is not installed"


def test_without_the_package_a_copy_names_the_wheel(without_the_package, tmp_path):
    copy = shutil.copytree(FOLDER, tmp_path / "copy")
    last = without_the_package(copy)
    assert last.startswith(MISSING)
    assert last.endswith(f'{PIP} --only-binary attnpatch -r "{copy / "requirements.txt"}"')


def test_without_the_package_a_link_names_the_wheel_of_the_sources(without_the_package, tmp_path):
    last = without_the_package(sources(tmp_path, wheel=True))
    dist = tmp_path / "clone" / "dist"
    assert last.startswith(MISSING)
    assert last.endswith(f'{PIP} --only-binary attnpatch --find-links "{dist}" attnpatch')


def test_without_the_package_a_link_names_the_sources(without_the_package, tmp_path):
    last = without_the_package(sources(tmp_path, wheel=False))
    assert last.startswith(MISSING) and last.endswith(f'{PIP} "{tmp_path / "clone"}"')


def test_a_torch_that_is_too_old_is_told_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "attnpatch.nodes", None)
    monkeypatch.setattr(metadata, "version", {"attnpatch": "0.1.0", "torch": "2.9.1+cu128"}.get)
    with pytest.raises(ImportError, match=r"^attnpatch's nodes: torch: expected 2\.10 .*2\.9\.1"):
        load(FOLDER)


def test_the_oldest_torch_is_that_of_the_package(monkeypatch):
    wanted = ".".join(map(str, load(FOLDER).OLDEST_TORCH))
    assert f"torch>={wanted}" in project(ROOT / "pyproject.toml")["project"]["dependencies"]


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
