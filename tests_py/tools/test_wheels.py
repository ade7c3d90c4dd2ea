# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The rules that wheels are checked by, on the modules that are installed here."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("elftools", reason="pyelftools is not installed")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def symbols(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    yield importlib.import_module("wheels.symbols")
    for name in [name for name in sys.modules if name.split(".")[0] == "wheels"]:
        del sys.modules[name]


def origin(module):
    return Path(importlib.util.find_spec(module).origin)


@pytest.fixture
def wheel(tmp_path):
    def make(**modules):
        path = tmp_path / "a.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in modules.items():
                archive.writestr(f"attnpatch/{name}.cpython.so", content)
        return path

    return make


@pytest.mark.parametrize("name", ["_core", "_vision"])
def test_our_modules_show_their_init_function_alone(symbols, name):
    assert symbols.read_module(origin(f"attnpatch.{name}").read_bytes()).shown == []


def test_of_torch_core_takes_c_functions_alone(symbols):
    """One build serves every torch from the oldest on only so."""
    module = symbols.read_module(origin("attnpatch._core").read_bytes())
    # Highway is inside in a wheel, and may be a library of the system here.
    assert [name for name in module.taken if not name.startswith("_ZN3hwy")] == []


def test_a_module_of_torch_itself_is_found_out(symbols, wheel):
    import torch

    content = (Path(torch.__file__).parent / "lib" / "libtorch_python.so").read_bytes()
    with pytest.raises(
        ValueError, match=r"a\.whl: .*_core.* shows .*; .*_core.* takes from outside .*_ZN"
    ):
        symbols.check(wheel(_core=content))


def test_a_wheel_without_the_engine_is_found_out(symbols, wheel):
    with pytest.raises(ValueError, match="no module _core"):
        symbols.check(wheel())


def test_what_is_bundled_is_named_by_where_its_sources_are_from(symbols, monkeypatch, tmp_path):
    """A wheel may be built on another system, such as macOS, than its sources were fetched on."""
    from wheels import libraries, sbom, sources

    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "distribution").write_text("raspbian\n")
    digest = "0123456789abcdef" * 4
    for library in libraries.LIBRARIES:
        text = f"Version: 1:2.3-4\nChecksums-Sha256:\n {digest} 56 {library.package}.orig.tar.xz\n"
        (tmp_path / "sources" / f"{library.package}_2.3-4.dsc").write_text(text)
    document = sbom.document([{"name": "another", "bom-ref": "pkg:pypi/another@1"}])
    components = document["components"]
    assert [component["name"] for component in components] == [
        *(library.name for library in libraries.LIBRARIES),
        "another",
    ]
    assert document["dependencies"][0]["dependsOn"][-1] == "pkg:pypi/another@1"
    assert components[0]["purl"] == "pkg:deb/raspbian/zlib@1:2.3-4?arch=source"
    assert components[0]["hashes"] == [{"alg": "SHA-256", "content": digest}]
