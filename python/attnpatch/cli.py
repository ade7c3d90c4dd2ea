# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: ``attnpatch demo``, ``face``, ``play``, ``inspect``, ``convert`` and others."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from attnpatch import __version__
from attnpatch_command.packages import PIP


def _inspect(arguments: argparse.Namespace) -> int:
    from attnpatch.adapters import describe

    for path in arguments.files:
        print(describe(path))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
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


def _add_convert(verb: argparse.ArgumentParser) -> None:
    verb.description = (
        "Write an adapter as one file in the published form: image_proj.NAME and "
        "ip_adapter.N.to_k_ip.weight, with what it is in the metadata. All tensors keep their "
        "values and dtypes."
    )
    verb.add_argument(
        "source",
        metavar="IN",
        help="file of an adapter in any form, index of one in shards, or folder with one in it",
    )
    verb.add_argument("target", metavar="OUT", help="file to write, .safetensors")
    verb.add_argument("--which", help="adapter to take, where the file holds several")
    verb.add_argument("--kind", help="kind of the adapter, where tensors leave it open")
    verb.add_argument("--force", action="store_true", help="overwrite OUT if it exists")


def _parser() -> argparse.ArgumentParser:
    from attnpatch.demo import cli as demo
    from attnpatch.demo import face_cli as face
    from attnpatch.ops.admission import tune
    from attnpatch.playground import cli as play
    from attnpatch.studies import cli as sweep
    from attnpatch_command import doctor

    parser = argparse.ArgumentParser(
        prog="attnpatch", description="Attention patches for diffusion UNets."
    )
    parser.add_argument("--version", action="version", version=f"attnpatch {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)

    verb = verbs.add_parser("demo", help="show image prompts at work on one contact sheet")
    demo.add_arguments(verb)
    verb.set_defaults(run=demo.run, extra="demo")

    verb = verbs.add_parser("face", help="show what is found in a photograph, and an identity")
    face.add_arguments(verb)
    verb.set_defaults(run=face.run, extra="demo")

    verb = verbs.add_parser("play", help="open a page that shows pictures without and with patches")
    play.add_arguments(verb)
    verb.set_defaults(run=play.run, extra="play")

    verb = verbs.add_parser("sweep", help="make all pictures of a study, in batches")
    sweep.add_arguments(verb)
    verb.set_defaults(run=sweep.run, extra="sweep")

    verb = verbs.add_parser("inspect", help="say what an adapter's file is, and what it wants")
    verb.add_argument("files", nargs="+", metavar="FILE", help="file, index or folder")
    verb.set_defaults(run=_inspect)

    verb = verbs.add_parser("convert", help="write an adapter of any form in the published form")
    _add_convert(verb)
    verb.set_defaults(run=_convert)

    verb = verbs.add_parser("tune", help="find out which kernels serve this machine's GPU or CPU")
    tune.add_arguments(verb)
    verb.set_defaults(run=tune.run)

    verb = verbs.add_parser("doctor", help="say what is here, what is missing, what brings it")
    doctor.add_arguments(verb)
    verb.set_defaults(run=doctor.run)
    for verb in verbs.choices.values():
        verb.set_defaults(parser=verb)
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
    parsed, unknown = _parser().parse_known_args(arguments)
    if unknown:  # with the usage of the verb, which says what it takes
        parsed.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return parsed.run(parsed)
    except BrokenPipeError:
        raise  # no fault of the user: attnpatch_command.output
    except ModuleNotFoundError as error:
        extra = getattr(parsed, "extra", None)
        missing = (error.name or "attnpatch").partition(".")[0]
        if extra is None or missing == "attnpatch":
            raise  # no extra would bring it
        brings = f'{PIP} "attnpatch[{extra}]"'
        print(f"attnpatch {parsed.verb}: {missing} is not installed: {brings}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"attnpatch {parsed.verb}: {error}", file=sys.stderr)
        return 1
