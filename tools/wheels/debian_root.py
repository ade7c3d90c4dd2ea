# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A bare Debian 13, made by debootstrap: its smallest system and python3."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from wheels import cuda
from wheels.attempts import OPERATORS_TESTS, Run
from wheels.interpreters import ENVIRONMENTS
from wheels.libraries import ROOT

SUITE, PYTHON = "trixie", "3.13"
MODULES = ["attnpatch", "attnpatch._core", "attnpatch._vision"]
"""What a wheel holds to be imported; the CUDA kernels' module too, which loads without a GPU."""
if cuda.is_wanted():
    MODULES.append("attnpatch._cuda")
_MIRROR = "http://deb.debian.org/debian"
_ENVIRONMENT = {
    "PATH": "/srv/bin:/usr/bin:/bin",
    "HOME": "/root",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": "/srv/packages",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def wheel_runs(environment: str, folder: Path) -> Iterable[Run]:
    """Give what to try with a wheel, whose environment's packages are put beside python3.

    Parameters
    ----------
    environment
        The name of the environment.
    folder
        The files of the checks.
    """
    enter = _enter(f"debian-{SUITE}", ("python3",), environment, folder)
    if enter is None:
        return
    cli = (*enter, "-m", "attnpatch_command")
    commands: dict[str, Sequence[str]] = {
        "operators' tests": (*enter, "-m", *OPERATORS_TESTS),
        "import": (*enter, "-c", f"import {', '.join(MODULES)}"),
        "demo": (*cli, "demo", "--output", "debian.png"),
        "face": (*cli, "face", "picture.png", "--models", "networks", "--output", "face.png"),
    }
    for what, command in commands.items():
        yield f"bare Debian {SUITE}", what, command, _ENVIRONMENT


def sdist_runs(environment: str, folder: Path) -> Iterable[Run]:
    """Give what to try with the sdist, where a compiler is and packages of PyPI alone."""
    system = ("python3", "python3-dev", "g++")
    enter = _enter(f"debian-{SUITE}-compiler", system, environment, folder)
    if enter is None:
        return
    (sdist,) = folder.glob("*.tar.gz")
    pip = (*enter, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation")
    faces = (
        "import attnpatch.faces as f\n"
        "try: f.FaceAnalysis('networks')\n"
        "except ImportError as error: assert 'OpenCV' in str(error), error\n"
        "else: raise AssertionError('faces without OpenCV')\n"
    )
    commands: dict[str, Sequence[str]] = {
        "sdist": (*pip, "--break-system-packages", sdist.name),
        "doctor": (*enter, "-m", "attnpatch_command", "doctor"),
        "a word about faces": (*enter, "-c", faces),
        "operators' tests": (*enter, "-m", *OPERATORS_TESTS),
    }
    for what, command in commands.items():
        yield f"bare Debian {SUITE} with a compiler", what, command, _ENVIRONMENT


def _enter(
    name: str, system: tuple[str, ...], environment: str, folder: Path
) -> tuple[str, ...] | None:
    """Make a root where there is none; return the command of its python3."""
    unshare, debootstrap = shutil.which("unshare"), shutil.which("debootstrap")
    if os.geteuid() != 0 or unshare is None or debootstrap is None:
        print(f"not tried: Debian {SUITE}, which root can make, with debootstrap and unshare")
        return None
    root = ROOT / "build" / name
    if not (root / "usr" / "bin" / "python3").exists():
        shutil.rmtree(root, ignore_errors=True)
        include = f"--include={','.join(system)}"
        make = (debootstrap, "--variant=minbase", include, SUITE, str(root), _MIRROR)
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    packages = ENVIRONMENTS / environment
    inside = {
        "packages": packages / "lib" / f"python{PYTHON}" / "site-packages",
        "bin": packages / "bin",
        "check": folder,
    }
    for part, source in inside.items():
        target = root / "srv" / part
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "--archive", "--link", str(source), str(target)], check=True)
    for program in (root / "srv" / "bin").glob("python*"):
        program.unlink()  # links to another system's
    # torch reads /proc, which is there for the process alone.
    proc = ("--pid", "--fork", "--mount-proc")
    return (unshare, *proc, f"--root={root}", "--wd=/srv/check", "/usr/bin/python3")
