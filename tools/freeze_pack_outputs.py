# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Write what the public pack of Slothful Attention computes, for the tests that compare with it.

Usage: ``python tools/freeze_pack_outputs.py CHECKOUT``, where CHECKOUT is a folder with
comfyui_slothful_attention; einops must be installed. To be run when the tests' cases change.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests_py" / "patches" / "token_reduction"))
from pack_cases import OUTPUTS, all_cases, signed_sums  # noqa: E402
from slothful_pack import load, pack_outputs  # noqa: E402


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="folder with comfyui_slothful_attention")
    checkout = parser.parse_args().checkout
    if not (checkout / "slothful_attention.py").is_file():
        parser.error(f"checkout: expected a folder with slothful_attention.py, got {checkout}")
    torch.set_num_threads(1)  # as the tests, so that sums keep their order
    pack = load(checkout)
    save_file(
        {
            name: torch.stack([signed_sums(pack_outputs(pack, case)) for case in cases])
            for name, cases in all_cases().items()
        },
        OUTPUTS,
        metadata={"source": "outputs of comfyui_slothful_attention (MIT)"},
    )


if __name__ == "__main__":
    main()
