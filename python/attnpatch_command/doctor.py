# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""``attnpatch doctor``: what is here, what is missing, and what brings it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from attnpatch_command import engine, host_folders, packages
from attnpatch_command.findings import Finding, as_json, as_text
from attnpatch_command.output import say_when_slow

__all__ = ["add_arguments", "examine", "run"]

_SECTIONS = ("Versions", "Engine", "Operators", "Faces", "Hosts", "Model folders", "Packs")


def examine(hosts: Sequence[Path] = ()) -> list[Finding]:
    """Return all findings, by sections.

    Parameters
    ----------
    hosts
        Folders of ComfyUI, Forge or Fooocus.
    """
    findings = [*packages.examine(), *engine.examine(), *host_folders.examine(hosts)]
    return sorted(findings, key=lambda finding: _SECTIONS.index(finding.section))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the doctor's arguments to a parser."""
    parser.description = (
        "Say what is installed, what serves each operator, which hosts and model folders are "
        "found, what is missing and what brings it. A line with ! is a problem: something that "
        "was asked for, by an environment variable or by what is installed, cannot work; the exit "
        "status is then 1."
    )
    parser.add_argument("--json", action="store_true", help="the same, for programs")
    parser.add_argument(
        *("--host",),
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders of ComfyUI, Forge or Fooocus; also found: one around the working folder",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; returns the exit status."""
    with say_when_slow(
        "attnpatch doctor: asking torch and what is beside it, each in its own process"
    ):
        findings = examine(arguments.host)
    print(json.dumps(as_json(findings), indent=1) if arguments.json else as_text(findings))
    return int(any(finding.state == "problem" for finding in findings))
