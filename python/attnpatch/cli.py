# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: ``attnpatch demo``, ``face``, ``inspect FILE`` and ``doctor``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from attnpatch import __version__


def _inspect(arguments: argparse.Namespace) -> int:
    from attnpatch.adapters import describe

    for path in arguments.files:
        print(describe(path))
    return 0


def _parser() -> argparse.ArgumentParser:
    from attnpatch.demo import cli as demo
    from attnpatch.demo import face_cli as face
    from attnpatch_command import doctor

    parser = argparse.ArgumentParser(
        prog="attnpatch", description="Attention patches for diffusion UNets."
    )
    parser.add_argument("--version", action="version", version=f"attnpatch {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)

    verb = verbs.add_parser("demo", help="show image prompts at work on one contact sheet")
    demo.add_arguments(verb)
    verb.set_defaults(run=demo.run)

    verb = verbs.add_parser("face", help="show what is found in a photograph, and an identity")
    face.add_arguments(verb)
    verb.set_defaults(run=face.run)

    verb = verbs.add_parser("inspect", help="say what an adapter's file is, and what it wants")
    verb.add_argument("files", nargs="+", metavar="FILE", help=".safetensors, .bin or .pt")
    verb.set_defaults(run=_inspect)

    verb = verbs.add_parser("doctor", help="say what is here, what is missing, what brings it")
    doctor.add_arguments(verb)
    verb.set_defaults(run=doctor.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit status: 0, or 1 after an error that the user can mend.
    """
    parsed = _parser().parse_args(arguments)
    try:
        return parsed.run(parsed)
    except (OSError, ValueError) as error:
        print(f"attnpatch {parsed.verb}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
