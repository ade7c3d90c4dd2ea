# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""ComfyUI's server on this machine's loopback, with our folder among its custom nodes."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import psutil
from narrow_adapters import make_state
from PIL import Image
from safetensors.torch import save_file

HERE = Path(__file__).parent
PACK = HERE.parents[1] / "comfyui" / "attnpatch_nodes"
V3 = "from attnpatch.nodes import comfy_entrypoint\n"
EXAMPLES = sorted((PACK / "example_workflows" / "api").glob("*.json"))
STAND_INS = {
    "CheckpointLoaderSimple": "TinyCheckpoint",
    "CLIPVisionLoader": "TinyImageEncoder",
    "UNETLoader": "TinyTransformer",
    "CLIPLoader": "TinyTextEncoder",
    "DualCLIPLoader": "TinyTextEncoder",
    "VAELoader": "TinyVae",
}
LOADERS = "TinyCheckpoint", "TinyTransformer"
_SIZE = {"width": 128, "height": 192}
SMALL = {"EmptyLatentImage": _SIZE, "EmptySD3LatentImage": _SIZE, "KSampler": {"steps": 2}}
START_WORK, RUN_WORK = 120, 120  # seconds of the server's own CPU time
ANSWER_TIMEOUT = 600  # seconds
SLOWEST = 15  # times as long by the clock, on a busy machine


class Patience:
    """How long to wait for a server: until it has worked for so many seconds of CPU time.

    What the clock says depends on what else the machine does; it ends the wait for one that hangs.
    """

    def __init__(self, process, seconds):
        self._process = psutil.Process(process.pid)
        self._most_work = self._work() + seconds
        self._end = time.monotonic() + SLOWEST * seconds

    def _work(self):
        times = self._process.cpu_times()
        return times.user + times.system

    def lasts(self):
        """Whether to wait on."""
        return time.monotonic() < self._end and self._work() < self._most_work


class Server:
    """A running server.

    Parameters
    ----------
    process
        It.
    port
        On 127.0.0.1.
    log
        The file with what it prints.
    """

    def __init__(self, process, port, log):
        self.process, self.base, self.log = process, f"http://127.0.0.1:{port}", log

    def get(self, path, **query):
        """Return the bytes at a path."""
        suffix = f"?{urllib.parse.urlencode(query)}" if query else ""
        with urllib.request.urlopen(self.base + path + suffix, timeout=ANSWER_TIMEOUT) as answer:
            return answer.read()

    def json(self, path):
        """Return what a path says."""
        return json.loads(self.get(path))

    def post(self, workflow):
        """Queue a workflow in the API's form; returns (status, answer)."""
        body = json.dumps({"prompt": workflow}).encode()
        request = urllib.request.Request(
            f"{self.base}/prompt", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def patience(self, seconds):
        """Begin to wait for it."""
        return Patience(self.process, seconds)

    def run(self, workflow):
        """Run a workflow to its end; returns its entry of the history."""
        status, answer = self.post(workflow)
        assert status == 200, answer
        patience = self.patience(RUN_WORK)
        while patience.lasts():
            entry = self.json(f"/history/{answer['prompt_id']}").get(answer["prompt_id"])
            if entry and entry["status"]["status_str"] in ("success", "error"):
                return entry
            time.sleep(0.2)
        raise TimeoutError(self.log.read_text()[-3000:])


def example(path):
    """Read an example as the API takes it."""
    return json.loads(path.read_text(encoding="utf-8"))


def small(workflow):
    """Make an example quick: other loaders, a small picture, few steps."""
    workflow = copy.deepcopy(workflow)
    for node in workflow.values():
        node["inputs"] |= SMALL.get(node["class_type"], {})
        node["class_type"] = STAND_INS.get(node["class_type"], node["class_type"])
    return workflow


def pictures(server, entry):
    """Return the pictures of an entry of the history."""
    assert entry["status"]["status_str"] == "success", entry["status"]
    shown = [image for out in entry["outputs"].values() for image in out.get("images", ())]
    return [Image.open(io.BytesIO(server.get("/view", **image))) for image in shown]


def write_files(base):
    """Write what the examples for SD1.5 name: a narrow adapter, and pictures."""
    files = base / "models" / "ipadapter"
    files.mkdir(parents=True)
    state = make_state("sd1")
    flat = {f"{group}.{name}": t for group, part in state.items() for name, t in part.items()}
    save_file(flat, files / "ip-adapter_sd15.safetensors")
    (base / "input").mkdir()
    for number, name in enumerate(("reference.png", "left.png", "right.png")):
        picture = Image.radial_gradient("L").rotate(40 * number).convert("RGB")
        picture.save(base / "input" / name)


@contextlib.contextmanager
def running(base, form="V1", *, front_end=False):
    """Start a server whose models, custom nodes, input and output lie in the folder `base`.

    Parameters
    ----------
    form
        "V1" or "V3": of ComfyUI's interfaces for nodes.
    front_end
        Serve the editor that is installed, not an empty page.
    """
    nodes = base / "custom_nodes"
    for folder in (nodes, base / "input", base / "output", base / "web", base / "user"):
        folder.mkdir(parents=True, exist_ok=True)
    (base / "web" / "index.html").write_text("")
    if form == "V1":
        (nodes / PACK.name).symlink_to(PACK)
    else:
        (nodes / PACK.name).mkdir()
        (nodes / PACK.name / "__init__.py").write_text(V3)
    (nodes / "server_nodes").symlink_to(HERE / "server_nodes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "main.py", "--cpu", "--disable-api-nodes", "--listen", "127.0.0.1"]
    command += ["--port", str(port)]
    if not front_end:
        command += ["--front-end-root", str(base / "web")]
    command += ["--base-directory", str(base), "--use-pytorch-cross-attention"]
    path = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    log = base / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=os.environ["ATTNPATCH_COMFYUI"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield _when_ready(Server(process, port, log))
        finally:
            process.terminate()
            process.wait(30)


def _when_ready(server):
    patience = server.patience(START_WORK)
    while server.process.poll() is None and patience.lasts():
        with contextlib.suppress(OSError):
            server.get("/system_stats")
            return server
        time.sleep(0.5)
    raise RuntimeError(f"the server did not start:\n{server.log.read_text()[-3000:]}")
