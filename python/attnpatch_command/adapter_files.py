# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""``attnpatch inspect`` and ``attnpatch convert``: files of adapters."""

from __future__ import annotations

import argparse
from pathlib import Path

from attnpatch_command.arguments import existing

__all__ = [
    "add_convert_arguments",
    "add_inspect_arguments",
    "check_convert",
    "run_convert",
    "run_inspect",
]


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attnpatch inspect`` to a parser."""
    parser.description = "Say what an adapter's file is, and what it wants."
    parser.add_argument(
        "files", type=existing, nargs="+", metavar="FILE", help="file, index or folder"
    )


def run_inspect(arguments: argparse.Namespace) -> int:
    """Describe files; returns the exit status."""
    from attnpatch.adapters import describe

    for path in arguments.files:
        print(describe(path))
    return 0


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attnpatch convert`` to a parser."""
    parser.description = (
        "Write an adapter as one file in the published form: image_proj.NAME and "
        "ip_adapter.N.to_k_ip.weight, with what it is in the metadata. All tensors keep their "
        "values and dtypes."
    )
    parser.add_argument(
        "source",
        type=existing,
        help="file of an adapter in any form, index of one in shards, or folder with one in it",
    )
    parser.add_argument("target", type=Path, help="file to write, .safetensors")
    parser.add_argument("--which", help="adapter to take, where the file holds several")
    parser.add_argument("--kind", help="kind of the adapter, where tensors leave it open")
    parser.add_argument("--force", action="store_true", help="overwrite the target if it exists")


def check_convert(arguments: argparse.Namespace) -> None:
    """Check that the target may be written over; ValueError says what lets it."""
    if arguments.target.is_file() and not arguments.force:
        raise ValueError(
            f"target: expected a new file, got {arguments.target}, which --force overwrites"
        )


def run_convert(arguments: argparse.Namespace) -> int:
    """Convert an adapter; returns the exit status."""
    from attnpatch.adapters import convert_adapter, describe

    convert_adapter(
        arguments.source,
        arguments.target,
        kind=arguments.kind,
        which=arguments.which,
        overwrite=arguments.force,
    )
    print(describe(arguments.target))
    return 0
