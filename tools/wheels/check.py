# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Try wheels where nothing else is: in empty environments, without a compiler, per torch."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from wheels import cuda, debian_root, symbols
from wheels.attempts import OPERATORS, OPERATORS_TESTS, Attempts, Run
from wheels.build import DIST, NEEDED
from wheels.interpreters import (
    find_interpreters,
    install,
    make_environment,
    remove_environment,
)
from wheels.libraries import ROOT

TORCHES = ("2.10", "2.12", "")
"""Releases of torch; the last is the newest that a Python has."""

NEIGHBOURS = ("cv2", "onnxruntime", "insightface", "attnpatch")
"""Modules with libraries of their own, which one process may import in any order."""

_FOLDER = ROOT / "build" / "check"
_TESTS = ("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6", "expecttest")
_BESIDE = ("opencv-python-headless", "onnxruntime>=1.18", "insightface>=2")


def check_all(versions: Sequence[str], torches: Sequence[str]) -> bool:
    """Check what is in ``dist/``; print a line for each attempt, return whether all is well.

    Parameters
    ----------
    versions
        Versions of Python; by default all of the machine's that have a wheel.
    torches
        Releases of torch to try with each Python, "" for the newest. By default that, and all of
        `TORCHES` with the last Python: modules of all Pythons take the same names from torch.
    """
    wheels = {_python_of(wheel): wheel for wheel in sorted(DIST.glob("*.whl"))}
    found = {v: path for v, path in find_interpreters(versions).items() if v in wheels}
    if not found:
        raise FileNotFoundError(f"{DIST}: expected wheels, got none; ./run wheels builds them")
    _prepare()
    attempts = Attempts(_FOLDER)
    last = list(found)[-1]
    for version, interpreter in reversed(found.items()):
        symbols.check(wheels[version], cuda=cuda.is_wanted())
        name = ""
        for torch in torches or (TORCHES if version == last else TORCHES[-1:]):
            remove_environment(name)  # each takes gigabytes
            name = f"check-{version}-torch-{torch or 'newest'}"
            release = f"torch=={torch}.*" if torch else "torch"
            wheel = f"attnpatch[demo] @ {wheels[version].as_uri()}"
            python = make_environment(name, interpreter, release, wheel, *_TESTS)
            attempts.run(_alone(name, f"Python {version}, torch {_torch_of(python)}", python))
        if version == debian_root.PYTHON:
            attempts.run(debian_root.wheel_runs(name, _FOLDER))
            attempts.run(_sdist(interpreter), together=False)
            remove_environment("sdist")
        install(python, *_BESIDE)
        attempts.run(_beside(version, python, all_orders=version == last))
        remove_environment(name)
    print(f"{attempts.done} attempts, {attempts.failed} failed")
    return attempts.failed == 0


def _python_of(wheel: Path) -> str:
    tag = wheel.name.split("-")[2]  # cp312
    return f"{tag[2]}.{tag[3:]}"


def _prepare() -> None:
    """Put tests, a page that they read, generated networks and a picture where no sources are."""
    shutil.rmtree(_FOLDER, ignore_errors=True)
    (_FOLDER / "networks").mkdir(parents=True)
    # Where a test is of the sources' own tools, there is nothing to test.
    of_tools = shutil.ignore_patterns("test_cuda_resources.py", "__pycache__")
    shutil.copytree(ROOT / OPERATORS, _FOLDER / OPERATORS, ignore=of_tools)
    (_FOLDER / "docs").mkdir()
    shutil.copyfile(ROOT / "docs" / "cuda.md", _FOLDER / "docs" / "cuda.md")
    shutil.copyfile(Path(__file__).with_name("neighbours.py"), _FOLDER / "neighbours.py")
    for sdist in DIST.glob("*.tar.gz"):
        shutil.copyfile(sdist, _FOLDER / sdist.name)
    code = (
        "import networks, PIL.Image; from pathlib import Path\n"
        "Path('networks/scrfd_10g_bnkps.onnx').write_bytes(networks.make_detector(seed=3))\n"
        "Path('networks/glintr100.onnx').write_bytes(networks.make_recogniser())\n"
        "picture = networks.draw_discs(500, 700, [(300, 200, 60), (550, 400, 30)])\n"
        "PIL.Image.fromarray(picture).save('picture.png')\n"
    )
    path = {"PYTHONPATH": str(ROOT / "tests_py" / "faces")}
    subprocess.run([sys.executable, "-c", code], cwd=_FOLDER, env=os.environ | path, check=True)


def _alone(name: str, place: str, python: Path) -> Iterable[Run]:
    program = python.with_name("attnpatch")
    page = f"{name}-face.png"
    commands: dict[str, Sequence[str | Path]] = {
        "operators' tests": (python, "-m", *OPERATORS_TESTS),
        "import": (python, "-c", f"import {', '.join(debian_root.MODULES)}"),
        "doctor": (program, "doctor"),
        "demo": (program, "demo", "--output", f"{name}-demo.png"),
        "face": (program, "face", "picture.png", "--models", "networks", "--output", page),
    }
    for what, command in commands.items():
        yield place, what, command, _environment(python)


def _beside(version: str, python: Path, *, all_orders: bool) -> Iterable[Run]:
    """Give imports beside another OpenCV: all must compute as they do alone."""
    orders = list(itertools.permutations(NEIGHBOURS))
    for order in orders if all_orders else (orders[0], orders[-1]):
        command = (python, "neighbours.py", *order)
        yield f"Python {version}, in one process", ", ".join(order), command, _environment(python)


def _sdist(interpreter: Path) -> Iterable[Run]:
    tools = (*NEEDED, "cmake", "ninja", "pip", "torch", "numpy", "safetensors", *_TESTS)
    make_environment("sdist", interpreter, *tools)
    return debian_root.sdist_runs("sdist", _FOLDER)


def _environment(python: Path) -> dict[str, str]:
    """Give a process's variables: its path leads to no compiler."""
    return {"PATH": str(python.parent), "HOME": str(_FOLDER), "OMP_NUM_THREADS": "1"}


def _torch_of(python: Path) -> str:
    code = "import importlib.metadata as m; print(m.version('torch'))"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()
