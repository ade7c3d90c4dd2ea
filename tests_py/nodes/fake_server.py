# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""As much of ComfyUI's server as a sweep asks for, over HTTP, and a queue that runs prompts."""

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import torch

from attnpatch.nodes import NODE_CLASS_MAPPINGS


class Blocked:
    """What keeps nodes from running."""

    def __init__(self, message):
        self.message = message


class Paint:
    """A picture of one colour."""

    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {
                "red": ("INT", {"default": 0, "min": 0, "max": 255}),
                "part": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0}),
                "mode": (["plain", "striped"], {}),
                "text": ("STRING", {}),
                "dark": ("BOOLEAN", {}),
            },
            "optional": {
                "below": ("IMAGE", {}),
                "file": ("COMBO", {"options": ["a.png", "b.png"]}),
            },
        }
    )
    FUNCTION = "paint"
    OUTPUT_NODE = False
    runs = 0

    def paint(self, red, part, mode, text, dark, below=None, file=None):
        Paint.runs += 1
        if text == "fails":
            raise RuntimeError("no memory")
        picture = torch.zeros(2 if text == "two" else 1, 4, 6, 3)
        picture[..., 0] = red / 255
        picture[..., 1] = part
        return (picture,)


CLASSES = {**NODE_CLASS_MAPPINGS, "Paint": Paint}


class FakeServer:
    """Takes prompts, and runs them when it is told to.

    Attributes
    ----------
    prompts : list of dict
        What was posted and waits.
    refuse : callable
        Of a prompt: an error, or None.
    """

    def __init__(self):
        self.prompts, self.refuse, self.shown, self.errors = [], lambda prompt: None, [], []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(*server.get(self.path))

            def do_POST(self):
                size = int(self.headers["Content-Length"])
                self.answer(*server.post(self.path, json.loads(self.rfile.read(size))))

            def answer(self, status, value):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"" if value is None else json.dumps(value).encode())

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        port = self._http.server_address[1]
        self.instance = SimpleNamespace(address="0.0.0.0", port=port, client_id="editor")

    def close(self):
        self._http.shutdown()
        self._http.server_close()

    def get(self, path):
        if path == "/queue":
            queue = [[0, one["id"], one["prompt"], one["extra_data"], []] for one in self.prompts]
            return 200, {"queue_running": [], "queue_pending": queue}
        name = path.removeprefix("/object_info/")
        return 200, {name: {"input": CLASSES[name].INPUT_TYPES()}} if name in CLASSES else {}

    def post(self, path, body):
        if path == "/queue":
            self.prompts = [one for one in self.prompts if one["id"] not in body["delete"]]
            return 200, None
        assert path == "/prompt" and body["client_id"] == "editor"
        said = self.refuse(body["prompt"])
        if said is not None:
            return 400, said
        for node in body["partial_execution_targets"]:
            assert node in body["prompt"]
        self.prompts.append({**body, "id": str(uuid.uuid4())})
        return 200, {"prompt_id": self.prompts[-1]["id"]}

    def run_queue(self, most=None):
        """Run what waits, as far as `most` prompts, as the host does."""
        count = 0
        while self.prompts and (most is None or count < most):
            one = self.prompts.pop(0)
            count += 1
            self.run(one["prompt"], one["extra_data"]["extra_pnginfo"])

    def run(self, prompt, told=None):
        """Run the nodes that end a workflow; an error ends its prompt alone."""
        made = {}
        for node, given in prompt.items():
            if CLASSES[given["class_type"]].OUTPUT_NODE:
                try:
                    self._run(node, prompt, told, made)
                except (RuntimeError, ValueError) as error:
                    self.errors.append(error)
        return made

    def _run(self, node, prompt, told, made):
        if node in made:
            return made[node]
        given = prompt[node]
        given["is_changed"] = [float("nan")]  # so the host
        kind = CLASSES[given["class_type"]]
        types = kind.INPUT_TYPES()
        declared = types["required"] | types.get("optional", {})
        hidden = {"prompt": prompt, "extra_pnginfo": told, "unique_id": node}
        values = {name: hidden[name] for name in types.get("hidden", {})}
        lazy = []
        for name, value in given["inputs"].items():
            if not isinstance(value, list):
                values[name] = value
            elif declared[name][1].get("lazy"):
                lazy.append(name)
                values[name] = None
            else:
                values[name] = self._run(value[0], prompt, told, made)[value[1]]
        made_node = kind()
        if lazy:
            for name in made_node.check_lazy_status(**values):
                assert name in lazy
                source, output = given["inputs"][name]
                values[name] = self._run(source, prompt, told, made)[output]
        if any(isinstance(value, Blocked) for value in values.values()):
            made[node] = (Blocked(None),) * 9
            return made[node]
        result = getattr(made_node, kind.FUNCTION)(**values)
        if isinstance(result, dict):
            self.shown.append(result["ui"])
            result = result["result"]
        made[node] = result
        return result
