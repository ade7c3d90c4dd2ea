# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Python packages: what is installed, what is missing, and what does not go together."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata

from attnpatch_command.findings import Finding

PIP = f'"{sys.executable}" -m pip install'

NEEDED = ("torch", "numpy", "safetensors")
"""What the package needs wherever it runs."""

_SECTION = "Versions"
_OLDEST = {"torch": (2, 10), "safetensors": (0, 4), "diffusers": (0, 35), "transformers": (4, 50)}

# What is optional: its use, and what brings it.
_OPTIONAL = {
    "diffusers": ("pipelines of diffusers", '"attnpatch[diffusers]"'),
    "transformers": ("image encoders by their ID", '"attnpatch[diffusers]"'),
    "pillow": ("attnpatch demo and face; pictures", '"attnpatch[demo]"'),
    "tqdm": ("attnpatch demo; bars of progress", '"attnpatch[demo]"'),
    "gradio": ("attnpatch play", '"attnpatch[play]"'),
    "ipywidgets": ("explore in notebooks", '"attnpatch[notebook]"'),
    "pyarrow": ("attnpatch sweep", '"attnpatch[sweep]"'),
    "ray": ("attnpatch sweep on a cluster", '"attnpatch[ray]"'),
    "scikit-image": ("attnpatch face without a picture of yours", "scikit-image"),
    "onnx": ("attnpatch face without models of yours", "onnx"),
    "facenet-pytorch": ("attnpatch face without models of yours", "--no-deps facenet-pytorch"),
}

# Built for one release of torch, and say so in their requirements or in their own number.
_OF_ONE_TORCH = ("torchvision", "torchaudio", "xformers")


def examine() -> Iterator[Finding]:
    """Yield the versions, what is missing and what conflicts."""
    yield _package("attnpatch", needed=True)
    python = f"{platform.python_version()} ({sys.executable})"
    yield Finding(_SECTION, "Python", python)
    yield Finding(_SECTION, "system", f"{platform.platform()}, {platform.machine()}")
    for name in NEEDED:
        yield _package(name, needed=True)
    for name, (use, brings) in _OPTIONAL.items():
        yield _package(name, needed=False, use=use, brings=brings)
    for name in _OF_ONE_TORCH:
        finding = _beside_torch(name)
        if finding is not None:
            yield finding


def version(name: str) -> str | None:
    """Return the version of a package, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str, *, needed: bool, use: str = "", brings: str = "") -> Finding:
    found = version(name)
    if found is None:
        if needed:
            return Finding(_SECTION, name, "not installed", "problem", f"{PIP} {name}")
        return Finding(_SECTION, name, f"not installed: {use}", "note", f"{PIP} {brings}")
    oldest = _OLDEST.get(name)
    if oldest is not None and _release(found) < oldest:
        wanted = ".".join(map(str, oldest))
        remedy = f'{PIP} "{name}>={wanted}"'
        return Finding(_SECTION, name, f"{found}: expected {wanted} or newer", "problem", remedy)
    return Finding(_SECTION, name, found)


def _beside_torch(name: str) -> Finding | None:
    """Say whether a package that is built for one release of torch is beside that release."""
    found, torch = version(name), version("torch")
    if found is None or torch is None:
        return None
    pins = [re.match(r"torch\s*==\s*([\d.]+)", line) for line in metadata.requires(name) or ()]
    wanted = next((pin[1] for pin in pins if pin), None)
    if wanted is None and name == "torchaudio":
        wanted = found  # its releases have torch's numbers
    if wanted is None or _release(wanted) == _release(torch):
        return Finding(_SECTION, name, found)
    text = f"{found}: built for torch {wanted}, beside torch {torch}; what imports it may fail"
    return Finding(_SECTION, name, text, "note", f'"{sys.executable}" -m pip uninstall {name}')


def _release(text: str) -> tuple[int, int]:
    """Return major and minor number of a version."""
    numbers = re.match(r"(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
