# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The CUDA compiler of wheels: PyPI's, of the oldest release that has all architectures."""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from wheels.interpreters import ENVIRONMENTS, make_environment
from wheels.libraries import FOLDER

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


def component() -> dict[str, Any]:
    """Describe the runtime that `compiler` installed, which is linked statically, for the SBOM.

    Its licence is put where CMake installs those of all libraries from.
    """
    (info,) = ENVIRONMENTS.glob("cuda/lib/python3.*/site-packages/nvidia_cuda_runtime-*.dist-info")
    release = info.name.removesuffix(".dist-info").split("-")[1]
    target = FOLDER / "licenses" / "bundled" / "nvidia-cuda-runtime"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(info / "licenses" / "License.txt", target / "License.txt")
    (library,) = info.parent.glob("nvidia/cu*/lib/libcudart_static.a")
    purl = f"pkg:pypi/nvidia-cuda-runtime@{release}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": "NVIDIA CUDA Runtime",
        "version": release,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(library.read_bytes()).hexdigest()}],
        "licenses": [{"expression": "LicenseRef-NVIDIA-Proprietary"}],
        "externalReferences": [
            {"type": "website", "url": "https://developer.nvidia.com/cuda-zone"}
        ],
    }
