# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""`attnpatch play`: its arguments, and how the playground starts."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from attnpatch_command.packages import PIP

if TYPE_CHECKING:
    from attnpatch.playground.patches import PlayModel

LOOPBACK = "127.0.0.1"
PORT = 7860
DTYPES = ("float32", "float16", "bfloat16")
_OF_OWN = ("image_encoder", "prompt", "steps", "size", "device", "dtype")  # of an own model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the playground's arguments to a parser."""
    parser.description = (
        "Open a page in the browser that shows pictures without and with patches, of the small "
        "model in the package or of yours. Only this machine can reach it, and it reaches no other."
    )
    parser.add_argument("--host", default=LOOPBACK, help="address to serve at; default: 127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT, help="default: 7860; 0: any free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    own = parser.add_argument_group("your own model (both of the first are needed)")
    own.add_argument("--model", help="SD1.5, SD2 or SDXL: a file, a diffusers folder or a model ID")
    own.add_argument("--adapter", help="an IP-Adapter, .safetensors or .bin")
    own.add_argument("--image-encoder", help="CLIP vision model: a folder or a model ID")
    own.add_argument("--prompt", help="default: best quality, high quality")
    own.add_argument("--steps", type=int, help="default: 25")
    own.add_argument("--size", type=int, help="edge of the pictures, a multiple of 8")
    own.add_argument("--device", help="default: cpu")
    own.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, else float16")


def run(args: argparse.Namespace) -> int:
    """Serve until it is interrupted.

    Returns
    -------
    int
        0; 1 where Gradio is missing; 2 for arguments that do not fit together.
    """
    if find_spec("gradio") is None:
        print(
            "attnpatch play: Gradio is missing, which makes the page; "
            f'it comes with {PIP} "attnpatch[play]"',
            file=sys.stderr,
        )
        return 1
    if bool(args.model) != bool(args.adapter):
        print("attnpatch play: expected --model and --adapter together", file=sys.stderr)
        return 2
    if not args.model and (lonely := [name for name in _OF_OWN if getattr(args, name) is not None]):
        names = ", ".join("--" + name.replace("_", "-") for name in lonely)
        print(f"attnpatch play: expected --model and --adapter beside {names}", file=sys.stderr)
        return 2
    if not 0 <= args.port <= 65535:
        print(f"attnpatch play: --port: expected 0 to 65535, got {args.port}", file=sys.stderr)
        return 2
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

    server.private(folder)
    import uvicorn

    from attnpatch.playground.compare import Playground

    local = args.host in ("127.0.0.1", "localhost", "::1")
    try:
        with server.listen(args.host, args.port) as taken:
            print("Loading the model", file=sys.stderr, flush=True)
            app = server.make_app(Playground(_load(args)), folder, local=local)
            shown = f"[{args.host}]" if ":" in args.host else args.host
            address = f"http://{shown}:{taken.getsockname()[1]}/"
            if not local:
                print("Whoever reaches this address can use the model.", file=sys.stderr)
            print(f"Playground: {address} (Ctrl+C ends it)", flush=True)
            if not args.no_browser:
                webbrowser.open(address)
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
            uvicorn.Server(config).run(sockets=[taken])
    except (ValueError, OSError) as error:
        print(f"attnpatch play: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _load(args: argparse.Namespace) -> PlayModel:
    if not args.model:
        from attnpatch.playground.small_model import SmallModel

        return SmallModel()
    import torch

    from attnpatch.demo.own_model import OwnOptions
    from attnpatch.devices import check_device
    from attnpatch.playground.own_model import OwnModel

    device = args.device or "cpu"
    check_device(device)
    dtype = args.dtype or ("float32" if torch.device(device).type == "cpu" else "float16")
    options = OwnOptions(
        model=args.model,
        adapter=args.adapter,
        images=(),
        image_encoder=args.image_encoder,
        prompt="best quality, high quality" if args.prompt is None else args.prompt,
        steps=25 if args.steps is None else args.steps,
        size=args.size,
        device=device,
        dtype=getattr(torch, dtype),
    )
    return OwnModel(options)
