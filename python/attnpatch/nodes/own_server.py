# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The HTTP interface of the very server that runs our nodes."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from attnpatch.nodes import comfy

__all__ = ["OwnServer", "Refused"]

_SECONDS = 60
_ANY = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


class Refused(ValueError):
    """The server does not take a prompt."""


class OwnServer:
    """Asks the server that runs this node; no other can be named.

    Parameters
    ----------
    address
        Where it listens, such as "http://127.0.0.1:8188"; None: as the host says.

    Raises
    ------
    RuntimeError
        Outside of a server.
    """

    def __init__(self, address: str | None = None) -> None:
        server = getattr(comfy.module("server"), "PromptServer", None)
        instance = getattr(server, "instance", None)
        self.address = address or _address(instance)
        self._client = getattr(instance, "client_id", None)
        # Never by a proxy. A certificate of its own says nothing of a server on this machine.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        self._opener = urllib.request.build_opener(*handlers)

    def definitions(self, classes: Iterable[str]) -> dict[str, Any]:
        """Return by the class of a node what it declares."""
        found: dict[str, Any] = {}
        for name in sorted(set(classes)):
            found |= self._ask(f"/object_info/{quote(name, safe='')}")
        return found

    def waiting(self) -> list[Mapping[str, Any]]:
        """Return what came with the prompts that run or wait."""
        queue = self._ask("/queue")
        return [entry[3] for part in queue.values() for entry in part]

    def queue(
        self, prompt: Mapping[str, Any], told: Mapping[str, Any], outputs: Iterable[str]
    ) -> str:
        """Queue a prompt behind all others; return its id.

        Parameters
        ----------
        prompt
            Nodes by their ids.
        told
            What its nodes are told as their hidden ``extra_pnginfo``.
        outputs
            The nodes that are to run, of those that end a workflow.

        Raises
        ------
        Refused
            With the server's own words.
        """
        body: dict[str, object] = {"prompt": prompt, "extra_data": {"extra_pnginfo": told}}
        body["partial_execution_targets"] = list(outputs)
        if self._client is not None:
            body["client_id"] = self._client  # whoever began it sees how far it is
        return self._ask("/prompt", body)["prompt_id"]

    def drop(self, ids: Iterable[str]) -> None:
        """Take prompts out of the queue."""
        self._ask("/queue", {"delete": list(ids)})

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json"}
        )
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(_words(error)) from None
        except urllib.error.URLError as error:
            raise RuntimeError(f"{self.address} does not answer: {error.reason}") from None
        return json.loads(text) if text else None


def _address(instance: Any) -> str:
    if not hasattr(instance, "port"):
        raise RuntimeError("a sweep is queued by ComfyUI's server, which is not running here")
    host = _ANY.get(instance.address, instance.address)
    host = f"[{host}]" if ":" in host else host
    arguments = getattr(comfy.module("comfy.cli_args"), "args", None)
    secure = getattr(arguments, "tls_keyfile", None) and getattr(arguments, "tls_certfile", None)
    return f"{'https' if secure else 'http'}://{host}:{instance.port}"


def _words(error: urllib.error.HTTPError) -> str:
    """Return what the server says of a prompt that it does not take, in a line."""
    text = error.read().decode(errors="replace")
    try:
        said = json.loads(text)
        found = [
            f"node {node}: {one['message']}: {one['details']}"
            for node, about in said["node_errors"].items()
            for one in about["errors"]
        ]
        return "; ".join(found) or f"{said['error']['message']}: {said['error']['details']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"status {error.code}: {text[:200]}"
