# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""``attnpatch sweep``: its arguments, and what it does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from attnpatch_command.arguments import one_file, whole
from attnpatch_command.output import INTERRUPTED

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attnpatch sweep`` to a parser."""
    parser.description = (
        "Make all pictures of a study, and a folder with them, a table, a contact sheet and a page."
    )
    parser.add_argument("study", type=one_file, help="a study as TOML")
    parser.add_argument("--output", help="folder or address; default: out/NAME")
    parser.add_argument("--resume", action="store_true", help="go on with results that are there")
    parser.add_argument("--dry-run", action="store_true", help="make one cell, say what all take")
    parser.add_argument("--engine", default="here", metavar="ENGINE", help="here, processes or ray")
    parser.add_argument(
        *("--workers",), type=whole(1), help="for processes and ray; default: one a device"
    )
    parser.add_argument("--address", help="of a Ray cluster")
    parser.add_argument(
        *("--rows",), type=whole(1), help="most rows of a batch; default: as memory allows"
    )
    parser.add_argument(
        "--measure",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="a function of a picture and its cell that gives a number; may be given several times",
    )
    parser.add_argument("--quiet", action="store_true", help="no bars")


def run(arguments: argparse.Namespace) -> int:
    """Run the sweep; returns the exit status.

    Raises
    ------
    OSError, ValueError
        For what the user can mend.
    """
    try:
        return _run(arguments)
    except TypeError as error:  # a value in a file, not one of a program
        raise ValueError(str(error)) from error


def _run(arguments: argparse.Namespace) -> int:
    from attnpatch.studies.dry_run import dry_run
    from attnpatch.studies.measures import named_measures
    from attnpatch.studies.names import folder_name
    from attnpatch.studies.run import run_study
    from attnpatch.studies.study import Study

    study = Study.load(arguments.study)
    output = arguments.output
    if not output:
        output = str(Path("out") / folder_name(study.name, "--output gives another folder"))
    measures = named_measures(arguments.measure)
    if arguments.dry_run:
        print(dry_run(study, output, rows=arguments.rows))
        return 0
    try:
        results = run_study(
            study,
            output,
            engine=arguments.engine,
            resume=arguments.resume,
            rows=arguments.rows,
            measures=measures,
            progress=not arguments.quiet,
            workers=arguments.workers,
            address=arguments.address,
        )
    except KeyboardInterrupt:
        print(f"attnpatch sweep: interrupted; --resume goes on with {output}", file=sys.stderr)
        return INTERRUPTED
    print(f"{len(results)} pictures: {output}/index.html")
    return 0
