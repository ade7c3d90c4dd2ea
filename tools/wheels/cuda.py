# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The CUDA compiler of wheels: PyPI's, of the oldest release that has all architectures."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from wheels.interpreters import make_environment

# Releases before 13 have no compiler on PyPI. Code of one runs with the drivers of all of CUDA 13.
RELEASE = "13.0"
_PACKAGES = ("cuda-nvcc", "nvvm", "cuda-crt", "cuda-runtime", "cuda-cccl")


def is_wanted() -> bool:
    """Return whether wheels of this machine hold the CUDA kernels."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def compiler() -> dict[str, str]:
    """Install the compiler into an environment of its own.

    Returns
    -------
    dict
        The variables by which CMake finds it.
    """
    packages = [f"nvidia-{name}=={RELEASE}.*" for name in _PACKAGES]
    python = make_environment("cuda", Path(sys.executable), *packages)
    (root,) = python.parents[1].glob(f"lib/python3.*/site-packages/nvidia/cu{RELEASE[:2]}")
    return {
        "CUDACXX": str(root / "bin" / "nvcc"),
        "CUDAToolkit_ROOT": str(root),
        "CMAKE_PREFIX_PATH": str(root),
    }
