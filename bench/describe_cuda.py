# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a record of a GPU begins with: the GPU, its driver, torch."""

import platform
import time
from pathlib import Path

import torch

from attnpatch.ops import library
from attnpatch.ops.admission.identity import identity_of


def main() -> None:
    """Print it as Markdown."""
    device = torch.device("cuda:0")
    gpu, identity = torch.cuda.get_device_properties(device), identity_of(device)
    revision = Path("revision")
    print(f"## {gpu.name}, {time.strftime('%Y-%m-%d', time.gmtime())}")
    print(
        f"- compute capability {gpu.major}.{gpu.minor}, {gpu.multi_processor_count} "
        f"multiprocessors, {gpu.total_memory / 2**30:.0f} GiB, "
        f"L2 {gpu.L2_cache_size / 2**20:.0f} MiB"
    )
    print(
        f"- driver {identity['driver']}, CUDA {identity['cuda']}, cuDNN {identity['cudnn']}, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )
    if revision.exists():
        print(f"- revision {revision.read_text().strip()}, build {identity['build']}")
    refusal = library.load_cuda_kernels().refusal(0)
    print(f"- kernels: {refusal or 'can run'}")


if __name__ == "__main__":
    main()
