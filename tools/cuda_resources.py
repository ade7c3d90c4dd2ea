# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Registers and spills of the CUDA kernels, from what the assembler said when they were built.

    python tools/cuda_resources.py build/cuda            # as a table
    python tools/cuda_resources.py build/cuda --write    # to csrc/kernels/cuda/resources.json

A test compares a build with that file.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from pathlib import Path

TABLE = Path(__file__).parents[1] / "csrc" / "kernels" / "cuda" / "resources.json"

Resources = dict[str, dict[str, list[int]]]
"""For each kernel and architecture: registers, and bytes spilled (stores and loads)."""

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
_SPILL = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


def read(build: Path) -> Resources:
    """Read what a build's folder holds; empty where it was built without.

    Parameters
    ----------
    build
        The folder of a build.
    """
    found: dict[tuple[str, str], list[int]] = {}
    for file in sorted(build.rglob("*.cu.o.ptxas")):
        found |= parse(file.read_text(encoding="utf-8"))
    symbols = sorted({symbol for symbol, _ in found})
    names = dict(zip(symbols, readable(symbols), strict=True))
    resources: Resources = {}
    for (symbol, architecture), numbers in sorted(found.items()):
        resources.setdefault(names[symbol], {})[architecture] = numbers
    return dict(sorted(resources.items()))


def parse(text: str) -> dict[tuple[str, str], list[int]]:
    """Return registers and spilled bytes by symbol and architecture."""
    found: dict[tuple[str, str], list[int]] = {}
    key, spilled = None, 0
    for line in text.splitlines():
        if entry := _ENTRY.search(line):
            key, spilled = (entry[1], entry[2]), 0
        elif spill := _SPILL.search(line):
            spilled = int(spill[1]) + int(spill[2])
        elif key is not None and (used := _REGISTERS.search(line)):
            found[key], key = [int(used[1]), spilled], None
    return found


def readable(symbols: list[str]) -> list[str]:
    """Return kernels' names as a person writes them."""
    if not symbols:
        return []
    text = subprocess.run(
        ["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True
    ).stdout
    names = []
    for line in text.splitlines():
        name = line.removeprefix("void ").replace("(anonymous namespace)::", "")
        name = name.split("(")[0].removeprefix("attnpatch::kernels::").removeprefix("device::")
        names.append(name.replace("__nv_bfloat16", "bfloat16").replace("__half", "half"))
    return names


def grown(found: Resources, table: Resources) -> list[str]:
    """Say which kernels need more than a table has, or are not in it.

    Compilers differ a little: four registers more, or 32 bytes, are no difference.
    """
    lines = []
    for kernel, architectures in found.items():
        for architecture, (registers, spilled) in architectures.items():
            known = table.get(kernel, {}).get(architecture)
            if known is None:
                lines.append(f"{kernel} for {architecture}: not in the table")
            elif registers > known[0] + 4 or spilled > known[1] + 32:
                lines.append(
                    f"{kernel} for {architecture}: {registers} registers and {spilled} bytes "
                    f"spilled, expected {known[0]} and {known[1]}"
                )
    return lines


def main() -> None:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path, help="the folder of a build")
    parser.add_argument("--write", action="store_true", help=f"to {TABLE.name}")
    arguments = parser.parse_args()
    found = read(arguments.build)
    if arguments.write:
        lines = [f"  {json.dumps(kernel)}: {json.dumps(row)}" for kernel, row in found.items()]
        TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return
    for kernel, row in found.items():
        cells = (
            f"{name} {number[0]}" + (f" ({number[1]} B)" if number[1] else "")
            for name, number in row.items()
        )
        print(f"{kernel}: " + ", ".join(cells))


if __name__ == "__main__":
    main()
