# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""`attnpatch face`: its arguments."""

from __future__ import annotations

import argparse
from pathlib import Path

from attnpatch_command.arguments import existing, model_source, one_file, whole
from attnpatch_command.output import say
from attnpatch_command.own_model import check_own, take_defaults

__all__ = ["add_arguments", "check", "run"]

_OF_OWN: dict[str, object] = {
    "prompt": "portrait photograph, high quality",
    "steps": 20,
    "device": "cpu",
}
"""What an own model alone heeds, with what it takes where nothing is given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the page's arguments to a parser."""
    parser.description = (
        "Find the faces of a photograph and write a page: boxes, the aligned crop, the keypoints, "
        "and what an identity does to a step of a model of SDXL's structure. Without PICTURE and "
        "--models: the photograph that scikit-image brings, found by the network that "
        "facenet-pytorch brings."
    )
    parser.add_argument("picture", type=one_file, nargs="?", help="a photograph that shows a face")
    parser.add_argument("--models", help="a pack of insightface: its name, folder or zip file")
    own = parser.add_argument_group("your own model (--model and --adapter are needed)")
    own.add_argument("--model", type=model_source, help="SDXL: a file, a folder or a model ID")
    own.add_argument("--adapter", type=existing, help="InstantID's adapter, .safetensors or .bin")
    own.add_argument("--prompt", help=f"default: {_OF_OWN['prompt']}")
    own.add_argument("--steps", type=whole(1), help=f"default: {_OF_OWN['steps']}")
    own.add_argument("--device", help=f"default: {_OF_OWN['device']}")
    parser.add_argument("--output", type=Path, default=Path("out/face.png"), help="a PNG")


def check(arguments: argparse.Namespace) -> None:
    """Check what goes together; ValueError names the options."""
    check_own(arguments, ("model", "adapter"), _OF_OWN)


def run(arguments: argparse.Namespace) -> int:
    """Write the page; returns the exit status."""
    take_defaults(arguments, _OF_OWN)
    from attnpatch.demo.output import check_output
    from attnpatch.devices import check_device

    check_device(arguments.device)
    check_output(arguments.output)
    say("Loading the models")
    from attnpatch.demo import face_page

    return face_page.run(arguments)
