# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Serves the page to this machine alone, with nothing fetched from or told to another.

Set `private` before Gradio is imported.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from attnpatch.playground.compare import Playground

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["listen", "make_app", "private"]

LOCAL = ("127.0.0.1", "localhost", "[::1]")
LARGEST_UPLOAD = 20 * 2**20
# A browser that shows the page loads nothing from anywhere else, whatever the page says.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'"
)
# All examples in one row, on a phone too, and no taller than they are.
_STYLE = """
.examples, .examples .grid-wrap {height: auto !important; min-height: 0 !important}
.examples .grid-container {grid-template-columns: repeat(4, minmax(0, 1fr)) !important}
"""


def private(folder: Path) -> None:
    """Have Gradio keep its files in a folder, and tell nobody anything.

    Parameters
    ----------
    folder : Path
        Of this run; what is in it is gone with it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")


def make_app(playground: Playground, folder: Path, *, local: bool = True) -> FastAPI:
    """Make the application.

    Parameters
    ----------
    playground : Playground
    folder : Path
        Of this run.
    local : bool
        Answer only to this machine's own names: a page elsewhere whose name is made to point here
        is then refused.

    Returns
    -------
    fastapi.FastAPI
    """
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from attnpatch.playground.page import make_page

    app = FastAPI(openapi_url=None, docs_url=None)
    if local:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL))
    app.add_middleware(_Headers)
    page = make_page(playground, folder)
    # Gradio asks whether a file was uploaded only where its own server began; a mounted page's did.
    page.has_launched = True
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        allowed_paths=[],
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        app_kwargs={"openapi_url": None, "docs_url": None},
        show_error=True,
        css=_STYLE,
        theme=gr.themes.Base(primary_hue="orange", font=["system-ui", "sans-serif"]).set(
            # White on it is read at a contrast of 5 to 1.
            button_primary_background_fill="*primary_700",
            button_primary_background_fill_hover="*primary_800",
            button_primary_background_fill_dark="*primary_700",
            button_primary_background_fill_hover_dark="*primary_800",
        ),
    )


class _Headers:
    """Adds the policy to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [
                    (b"content-security-policy", _POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, send_with_policy)


def listen(host: str, port: int) -> socket.socket:
    """Take an address, before the model is loaded.

    Parameters
    ----------
    host : str
    port : int
        0: any that is free.

    Raises
    ------
    OSError
        Where it cannot be had, naming it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except socket.gaierror as error:
        taken.close()
        raise OSError(f"--host: expected an address of this machine, got {host}: {error}") from None
    except OSError as error:
        taken.close()
        raise OSError(f"--port: expected a free port at {host}, got {port}: {error}") from None
    return taken
