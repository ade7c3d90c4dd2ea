# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""`attnpatch face`: its arguments."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the page's arguments to a parser."""
    parser.description = (
        "Find the faces of a photograph and write a page: boxes, the aligned crop, the keypoints, "
        "and what an identity does to a step of a model of SDXL's structure. Without PICTURE and "
        "--models: the photograph that scikit-image brings, found by the network that "
        "facenet-pytorch brings."
    )
    parser.add_argument("picture", type=Path, nargs="?", help="a photograph that shows a face")
    parser.add_argument("--models", help="a pack of insightface: its name, folder or zip file")
    own = parser.add_argument_group("your own model (both are needed)")
    own.add_argument("--model", help="SDXL: a file, a diffusers folder or a model ID")
    own.add_argument("--adapter", help="InstantID's adapter, .safetensors or .bin")
    own.add_argument("--prompt", default="portrait photograph, high quality")
    own.add_argument("--steps", type=int, default=20)
    own.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("out/face.png"), help="a PNG")


def run(arguments: argparse.Namespace) -> int:
    """Write the page; returns the exit status."""
    if bool(arguments.model) != bool(arguments.adapter):
        raise ValueError("--model, --adapter: each is needed with the other")
    from attnpatch.demo import face_page  # needs Pillow and diffusers

    return face_page.run(arguments)
