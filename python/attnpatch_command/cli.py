# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: ``attnpatch demo``, ``face``, ``play``, ``inspect``, ``convert`` and others.

Modules of verbs import the package where they run: help and errors in arguments come at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from attnpatch_command import adapter_files, demo, doctor, face, packages, play, sweep, tune
from attnpatch_command.output import INTERRUPTED, say, say_when_slow

__all__ = ["VERBS", "Verb", "main"]


class Verb(NamedTuple):
    """A verb of the command line.

    Attributes
    ----------
    name, summary
        Its word, and a line about it.
    add_arguments
        Adds its arguments to a parser.
    run
        Does it; returns the exit status.
    check
        Raises ValueError for arguments that do not go together.
    needs
        What it imports beside what the package needs.
    extra
        What brings that.
    alone
        Whether it does without the package.
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    check: Callable[[argparse.Namespace], None] | None = None
    needs: tuple[str, ...] = ()
    extra: str = ""
    alone: bool = False


VERBS = (
    Verb(
        "demo",
        "show image prompts at work on one contact sheet",
        demo.add_arguments,
        demo.run,
        check=demo.check,
        needs=("PIL", "diffusers"),
        extra="demo",
    ),
    Verb(
        "face",
        "show what is found in a photograph, and an identity",
        face.add_arguments,
        face.run,
        check=face.check,
        needs=("PIL", "diffusers"),
        extra="demo",
    ),
    Verb(
        "play",
        "open a page that shows pictures without and with patches",
        play.add_arguments,
        play.run,
        check=play.check,
        needs=("PIL", "diffusers", "gradio"),
        extra="play",
    ),
    Verb(
        "sweep",
        "make all pictures of a study, in batches",
        sweep.add_arguments,
        sweep.run,
        needs=("PIL",),
        extra="sweep",
    ),
    Verb(
        "inspect",
        "say what an adapter's file is, and what it wants",
        adapter_files.add_inspect_arguments,
        adapter_files.run_inspect,
    ),
    Verb(
        "convert",
        "write an adapter of any form in the published form",
        adapter_files.add_convert_arguments,
        adapter_files.run_convert,
        check=adapter_files.check_convert,
    ),
    Verb(
        "tune",
        "find out which kernels serve this machine's GPU or CPU",
        tune.add_arguments,
        tune.run,
    ),
    Verb(
        "doctor",
        "say what is here, what is missing, what brings it",
        doctor.add_arguments,
        doctor.run,
        alone=True,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit status: 0; 1 after an error that the user can mend; 130 after Ctrl+C. Wrong
        arguments raise SystemExit with 2.
    """
    verb, parsed = _parse(arguments)
    try:
        return _run(verb, parsed)
    except KeyboardInterrupt:
        say(f"attnpatch {verb.name}: interrupted")
        return INTERRUPTED


def _run(verb: Verb, parsed: argparse.Namespace) -> int:
    if not verb.alone and not _is_there(verb):
        return 1
    try:
        return verb.run(parsed)
    except BrokenPipeError:
        raise  # no fault of the user: attnpatch_command.output
    except ModuleNotFoundError as error:
        missing = (error.name or "attnpatch").partition(".")[0]
        if not verb.extra or missing == "attnpatch":
            raise  # no extra would bring it
        _say_what_brings(missing, verb)
        return 1
    except (OSError, ValueError) as error:
        say(f"attnpatch {verb.name}: {error}")
        return 1


def _parse(arguments: Sequence[str] | None) -> tuple[Verb, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="attnpatch", description="Attention patches for diffusion UNets."
    )
    version = packages.version("attnpatch")
    parser.add_argument("--version", action="version", version=f"attnpatch {version}")
    parsers = parser.add_subparsers(dest="verb", required=True)
    for verb in VERBS:
        added = parsers.add_parser(verb.name, help=verb.summary)
        verb.add_arguments(added)
    parsed, unknown = parser.parse_known_args(arguments)
    verb = next(verb for verb in VERBS if verb.name == parsed.verb)
    of_verb = parsers.choices[verb.name]  # its usage says what it takes
    if unknown:
        of_verb.error(f"unrecognized arguments: {' '.join(unknown)}")
    if verb.check is not None:
        try:
            verb.check(parsed)
        except ValueError as error:
            of_verb.error(str(error))
    return verb, parsed


def _is_there(verb: Verb) -> bool:
    """Import the package; False, with a word to the user, where that or what a verb needs fails."""
    for name in verb.needs:
        if find_spec(name) is None:
            _say_what_brings(name, verb)
            return False
    try:
        with say_when_slow("attnpatch: loading torch"):
            import attnpatch  # noqa: F401
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        said = str(error)
        if missing in packages.NEEDED:
            said = f"{missing} is not installed: {packages.PIP} {missing}"
        say(f"attnpatch: {said}\nMore is said by: attnpatch doctor")
        return False
    return True


def _say_what_brings(missing: str, verb: Verb) -> None:
    brings = f'{packages.PIP} "attnpatch[{verb.extra}]"'
    say(f"attnpatch {verb.name}: {missing} is not installed: {brings}")
