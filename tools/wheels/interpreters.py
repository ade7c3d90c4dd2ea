# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The Pythons of this machine, and environments of their own for them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from wheels.libraries import ROOT

OLDEST = (3, 10)
ENVIRONMENTS = ROOT / "build" / "environments"

_ASK = """
import json, os, sys, sysconfig
paths = sysconfig.get_paths()
print(json.dumps({
    "version": sys.version_info[:2],
    "fits": sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
        and os.path.exists(paths["include"] + "/Python.h"),
}))
"""


def find_interpreters(wanted: Sequence[str] = ()) -> dict[str, Path]:
    """Find the CPythons from 3.10 on that have their headers: on PATH, and pyenv's.

    Parameters
    ----------
    wanted
        Versions such as "3.12"; all by default.

    Returns
    -------
    dict
        The path of each version's interpreter, oldest first.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    folders = [*sorted(pyenv.glob("3.*/bin"), reverse=True)]
    folders += map(Path, os.environ.get("PATH", "").split(os.pathsep))
    found: dict[tuple[int, int], Path] = {}
    for folder in folders:
        for path in folder.glob("python3.[0-9]*"):
            if not path.name.removeprefix("python3.").isdigit():
                continue
            known = _ask(path)
            version = tuple(known.get("version", (0, 0)))
            if known.get("fits") and version >= OLDEST:
                found.setdefault(version, path)
    named = {f"{major}.{minor}": found[major, minor] for major, minor in sorted(found)}
    missing = [version for version in wanted if version not in named]
    if missing:
        raise FileNotFoundError(
            f"--python: expected versions of {', '.join(named)}, got {', '.join(missing)}"
        )
    return {version: path for version, path in named.items() if not wanted or version in wanted}


def make_environment(name: str, interpreter: Path, *requirements: str) -> Path:
    """Make an environment anew; return the path of its interpreter."""
    folder = ENVIRONMENTS / name
    shutil.rmtree(folder, ignore_errors=True)
    uv("venv", "--quiet", "--python", str(interpreter), str(folder))
    python = folder / "bin" / "python"
    install(python, *requirements)
    return python


def remove_environment(name: str) -> None:
    """Remove an environment, if there is one of that name."""
    if name:
        shutil.rmtree(ENVIRONMENTS / name, ignore_errors=True)


def install(python: Path, *requirements: str) -> None:
    """Install packages into an environment; wheels only."""
    if requirements:
        only = ("--only-binary", ":all:") if "--no-deps" not in requirements else ()
        uv("pip", "install", "--quiet", "--python", str(python), *only, *requirements)


def uv(*arguments: str) -> None:
    """Run uv, that of the environment that runs this."""
    program = Path(sys.executable).with_name("uv")
    subprocess.run([str(program), *arguments], check=True)


def _ask(path: Path) -> dict[str, object]:
    try:
        done = subprocess.run([path, "-c", _ASK], capture_output=True, text=True, timeout=60)
    except OSError:
        return {}
    return json.loads(done.stdout) if done.returncode == 0 else {}
