# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""`attnpatch play`: its arguments, and how the playground starts."""

from __future__ import annotations

import argparse
import signal
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attnpatch_command.arguments import whole
from attnpatch_command.output import say
from attnpatch_command.own_model import (
    OF_OWN,
    add_own_model,
    check_own,
    own_options,
    take_defaults,
)

if TYPE_CHECKING:
    from attnpatch.playground.patches import PlayModel

LOOPBACK = "127.0.0.1"
PORT = 7860
# What an own model alone heeds, with what it takes where nothing is given.
_OF_OWN = {"steps": 25, **OF_OWN}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the playground's arguments to a parser."""
    parser.description = (
        "Open a page in the browser that shows pictures without and with patches, of the small "
        "model in the package or of yours. Only this machine can reach it, and it reaches no other."
    )
    parser.add_argument(
        "--host", default=LOOPBACK, help=f"address to serve at; default: {LOOPBACK}"
    )
    parser.add_argument(
        *("--port",), type=whole(0, 65535), default=PORT, help=f"default: {PORT}; 0: any free one"
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    own = parser.add_argument_group("your own model (--model and --adapter are needed)")
    add_own_model(own, whole(32, 2048, multiple=8, text="a multiple of 8, 32 to 2048"))
    own.add_argument("--steps", type=whole(2, 100), help=f"default: {_OF_OWN['steps']}")


def check(args: argparse.Namespace) -> None:
    """Check what goes together; ValueError names the options."""
    check_own(args, ("model", "adapter"), _OF_OWN)


def run(args: argparse.Namespace) -> int:
    """Serve until it is interrupted.

    Returns
    -------
    int
        0.

    Raises
    ------
    OSError, ValueError
        For what the user can mend.
    """
    with (
        ended_by_signals(),
        tempfile.TemporaryDirectory(prefix="attnpatch-play-") as folder,
    ):
        return _serve(args, Path(folder))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """While this runs, signals that end a program raise SystemExit, so that files are deleted."""

    def end(number: int, _: object) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)  # deleting is not to be interrupted
        raise SystemExit(128 + number)

    kinds = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    heeded = [kind for kind in kinds if signal.getsignal(kind) != signal.SIG_IGN]  # nohup
    before = {kind: signal.signal(kind, end) for kind in heeded}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _serve(args: argparse.Namespace, folder: Path) -> int:
    from attnpatch.playground import server
    from attnpatch.playground.compare import Playground

    server.private(folder)
    local = args.host in ("127.0.0.1", "localhost", "::1")
    try:
        with server.listen(args.host, args.port) as taken:
            say("Loading Gradio")
            import gradio  # noqa: F401
            import uvicorn

            say("Loading diffusers and the model")
            app = server.make_app(Playground(_load(args)), folder, local=local)
            shown = f"[{args.host}]" if ":" in args.host else args.host
            address = f"http://{shown}:{taken.getsockname()[1]}/"
            if not local:
                say("Whoever reaches this address can use the model.")
            taken.listen()  # whoever opens the address now is served in a moment
            print(f"Playground: {address} (Ctrl+C ends it)", flush=True)
            if not args.no_browser:
                webbrowser.open(address)
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
            uvicorn.Server(config).run(sockets=[taken])
    except KeyboardInterrupt:
        pass
    return 0


def _load(args: argparse.Namespace) -> PlayModel:
    if not args.model:
        from attnpatch.playground.small_model import SmallModel

        return SmallModel()
    from attnpatch.playground.own_model import OwnModel

    take_defaults(args, _OF_OWN)
    options = own_options(args, images=())
    return OwnModel(options)
