# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What verdicts hold for: a device, its driver, torch, and this build's kernels."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import hashlib
import importlib.util
import platform
from pathlib import Path

import torch

from attnpatch.ops.admission.verdicts import Identity


@functools.cache
def identity_of(device: torch.device) -> Identity:
    """Return what identifies a device and what runs there.

    Parameters
    ----------
    device
        A CUDA device with its number, or the CPU.
    """
    common: dict[str, str | int] = {"device": device.type, "torch": torch.__version__}
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        return common | {
            "name": gpu.name,
            "capability": f"{gpu.major}.{gpu.minor}",
            "multiprocessors": gpu.multi_processor_count,
            "shared memory": gpu.shared_memory_per_block_optin,
            "driver": _driver_version(),
            "cuda": torch.version.cuda or f"HIP {torch.version.hip}",
            "cudnn": str(torch.backends.cudnn.version()),
            "build": digest_of("_cuda"),
        }
    return common | {
        "name": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "build": digest_of("_core"),
    }


@functools.cache
def digest_of(module: str) -> str:
    """Return what tells one build of an extension module from another; empty: it is not built."""
    spec = importlib.util.find_spec(f"attnpatch.{module}")
    if spec is None or spec.origin is None:
        return ""
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _driver_version() -> str:
    """Ask NVIDIA's management library; torch does not know it."""
    library = "nvml.dll" if platform.system() == "Windows" else "libnvidia-ml.so.1"
    text = ctypes.create_string_buffer(96)
    try:
        nvml = ctypes.CDLL(library)
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, 96) == 0:
            return text.value.decode()
    except (OSError, AttributeError):
        pass
    return "unknown"
