# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Building the libraries of a wheel, and putting Highway's sources into an sdist."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from wheels.libraries import FOLDER, LIBRARIES, ROOT
from wheels.sources import quiet, unpack, version

PREFIX = FOLDER / "prefix"
HIGHWAY_IN_SDIST = ROOT / "third_party" / "highway"
"""Where CMakeLists.txt looks for Highway's sources; only an sdist has them."""

_COMMON = (
    "-GNinja",
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_POSITION_INDEPENDENT_CODE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DBUILD_TESTING=OFF",
    "-DCMAKE_INSTALL_LIBDIR=lib",
    "-DCMAKE_POLICY_VERSION_MINIMUM=3.5",
    f"-DCMAKE_INSTALL_PREFIX={PREFIX}",
    f"-DCMAKE_PREFIX_PATH={PREFIX}",
)
# What a module does not call is left out of it.
_FLAGS = f"-ffunction-sections -fdata-sections -ffile-prefix-map={FOLDER}/="
_CXX_FLAGS = f"{_FLAGS} -fvisibility=hidden"
if sys.platform == "linux":
    _CXX_FLAGS += " -fno-gnu-unique"


def build() -> None:
    """Build what is not built yet, and collect the licences."""
    for library in LIBRARIES:
        sources = unpack(library)
        stamp = FOLDER / f"{library.package}.stamp"
        recipe = json.dumps([asdict(library), _COMMON, _CXX_FLAGS, version(library)])
        digest = hashlib.sha256(recipe.encode()).hexdigest()
        if stamp.exists() and stamp.read_text() == digest:
            continue
        print(f"building {library.name} {version(library)}", file=sys.stderr)
        binary = FOLDER / "build" / library.package
        shutil.rmtree(binary, ignore_errors=True)
        environment = os.environ | {"CFLAGS": _FLAGS, "CXXFLAGS": _CXX_FLAGS}
        if shutil.which("ccache"):
            environment |= {f"CMAKE_{lang}_COMPILER_LAUNCHER": "ccache" for lang in ("C", "CXX")}
        # The distribution's protoc is of the same version as its sources; without it, ours is.
        protoc = "OFF" if shutil.which("protoc") else "ON"
        options = [option.format(prefix=PREFIX, protoc=protoc) for option in library.options]
        configure = ["cmake", "-S", str(sources), "-B", str(binary)]
        quiet([*configure, *_COMMON, *options], environment)
        quiet(["cmake", "--build", str(binary), "--target", "install"], environment)
        stamp.write_text(digest)
    _collect_licences()


def highway_for_sdist() -> None:
    """Put Highway's sources where an sdist takes them along: PyPI has no package of it."""
    library = next(library for library in LIBRARIES if library.package == "highway")
    sources = unpack(library)
    shutil.rmtree(HIGHWAY_IN_SDIST, ignore_errors=True)
    for path in sorted((sources / "hwy").rglob("*")):
        wanted = path.suffix in (".h", ".cc") and not path.stem.endswith("_test")
        inside = path.relative_to(sources)
        if wanted and not {"contrib", "tests", "examples"} & set(inside.parts):
            target = HIGHWAY_IN_SDIST / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    shutil.copyfile(sources / "LICENSE", HIGHWAY_IN_SDIST / "LICENSE")
    (HIGHWAY_IN_SDIST / "VERSION").write_text(version(library) + "\n")


def _collect_licences() -> None:
    """Put the licences of all libraries where CMake installs them from."""
    folder = FOLDER / "licenses"
    shutil.rmtree(folder, ignore_errors=True)
    for library in LIBRARIES:
        target = folder / "bundled" / library.package
        target.mkdir(parents=True)
        for name in library.licence_files:
            shutil.copyfile(unpack(library) / name, target / Path(name).name)
