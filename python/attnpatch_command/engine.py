# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The engine: instruction sets, what serves each operator, faces, diffusers.

All is asked of processes of their own: a library that does not fit may end the process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from attnpatch_command.findings import Finding, State
from attnpatch_command.packages import NEEDED, PIP, version

_BACKEND = "ATTNPATCH_BACKEND"
_SECONDS = 300
# As Highway calls them, and as all others do.
_SETS = {
    "AVX3": "AVX-512",
    "AVX3_BF16": "AVX-512 with bf16",
    "AVX3_AMX": "AVX-512 with AMX",
    "NEON_BF16": "NEON with bf16",
    "SCALAR": "scalar",
}

_ENGINE = """
import importlib.util, json, torch
from attnpatch import _core
from attnpatch.ops import admission, library
gpus = range(torch.cuda.device_count() if torch.version.cuda else 0)
devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in gpus)]
print(json.dumps({
    "instruction_sets": _core.cpu_targets(),
    "backend": library.backend(),
    "operators": sorted(admission.OPERATORS),
    "verdicts": {
        str(d): [[n, c.kernel, f"{dtype} {call}"] for n, dtype, call, c in admission.explain(d)]
        for d in devices
    },
    "torch_is_for": f"CUDA {torch.version.cuda}" if torch.version.cuda else
        f"ROCm {torch.version.hip}" if torch.version.hip else "CPUs alone",
    "cuda_module": importlib.util.find_spec("attnpatch._cuda") is not None,
    "gpus": [
        "%s, compute capability %d.%d"
        % (torch.cuda.get_device_name(i), *torch.cuda.get_device_capability(i))
        for i in gpus
    ],
}))
"""
_CUDA = """
import json, torch
from attnpatch import _core, _cuda
gpus = range(torch.cuda.device_count() if torch.version.cuda else 0)
print(json.dumps({
    "limits": {k: v for k, v in vars(_cuda).items() if isinstance(v, int)},
    "refusals": {f"cuda:{i}": _cuda.refusal(i) for i in gpus},
}))
"""
_VISION = """
import json
from attnpatch import _vision
from attnpatch.faces.files import face_model_folders
print(json.dumps({
    "faces": hasattr(_vision, "FaceDetector"),
    "folders": [[str(f), f.is_dir()] for f in face_model_folders()],
}))
"""
_DIFFUSERS = """
import json
from diffusers import UNet2DConditionModel
import attnpatch.hosts.diffusers
print(json.dumps({}))
"""


def examine() -> Iterator[Finding]:
    """Yield what the engine can do here."""
    lacking = [name for name in NEEDED if version(name) is None]
    if lacking:
        text = f"cannot be loaded without {', '.join(lacking)}"
        yield Finding("Engine", "attnpatch._core", text, "problem")
        return
    yield from _operators()
    yield from _faces()
    if version("diffusers") is not None:
        _, error = ask(_DIFFUSERS, **{_BACKEND: None})
        if error:
            yield Finding("Hosts", "diffusers", f"cannot be imported: {error}", "problem")
        else:
            yield Finding("Hosts", "diffusers", f"{version('diffusers')}")


def ask(code: str, **environment: str | None) -> tuple[dict[str, Any], str]:
    """Run code in a process of its own.

    Parameters
    ----------
    code
        Prints one line of JSON.
    environment
        Variables to set, or with None to unset.

    Returns
    -------
    tuple
        What it printed, or nothing and what went wrong, in a line.
    """
    variables: dict[str, str | None] = {**os.environ, **environment}
    given = {name: value for name, value in variables.items() if value is not None}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=given,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {}, f"no answer in {_SECONDS} s"
    if done.returncode < 0:
        return {}, f"it was ended by {signal.Signals(-done.returncode).name}"
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {}, lines[-1] if lines else f"exit status {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1]), ""


def _operators() -> Iterator[Finding]:
    chosen = os.environ.get(_BACKEND)
    known, error = ask(_ENGINE)
    if error and chosen is not None:
        yield Finding("Engine", f"{_BACKEND}={chosen}", error, "problem", f"unset {_BACKEND}")
        known, error = ask(_ENGINE, **{_BACKEND: None})
    if error:
        remedy = f"{PIP} --force-reinstall --no-deps attnpatch"
        yield Finding("Engine", "attnpatch._core", f"cannot be loaded: {error}", "problem", remedy)
        return
    best, *others = [_SETS.get(name, name) for name in known["instruction_sets"]]
    text = best + (f" (also: {', '.join(others)})" if others else "")
    yield Finding("Engine", "instruction sets", text)
    # A kernel that is asked for and has no GPU to run on.
    useless = known["backend"] == "cuda" and not known["gpus"]
    gpus = (
        "\n".join(known["gpus"])
        or f"none that torch can use by CUDA; it is built for {known['torch_is_for']}"
    )
    yield Finding("Engine", "GPUs", gpus, "problem" if useless else "ok")
    yield _cuda(known["cuda_module"], asked_for=known["backend"] == "cuda")
    for name in known["operators"]:
        texts, admitted = [], []
        for device, verdicts in known["verdicts"].items():
            own = [(kernel, call) for operator, kernel, call in verdicts if operator == name]
            won = [kernel for kernel, _ in own]
            texts.append(f"{device}: {_serves(known['backend'], device, won)}")
            admitted += [f"{device}: {call}" for kernel, call in own if kernel]
        yield Finding("Operators", name, "\n".join(["; ".join(texts), *admitted]))


def _serves(backend: str, device: str, verdicts: list[bool]) -> str:
    """Say what serves an operator on a device, by whether the kernel won each kind of calls."""
    if backend in ("plain", "reference"):
        return {"plain": "plain torch", "reference": "reference"}[backend]
    default = "kernel" if device == "cpu" or backend == "cuda" else "plain torch"
    if backend == "cuda" or not verdicts:
        return default
    measured = f"kernel for {sum(verdicts)} of {len(verdicts)} kinds of calls measured"
    return f"{measured}, else {default}"


def _cuda(built: bool, *, asked_for: bool) -> Finding:
    if not built:
        return Finding("Engine", "CUDA module", "not built: a GPU takes plain torch", "note")
    known, error = ask(_CUDA, **{_BACKEND: None})
    if error:
        return Finding("Engine", "CUDA module", f"cannot be loaded: {error}", "note")
    limits = ", ".join(f"{name} {limit}" for name, limit in sorted(known["limits"].items()))
    refused = [f"{gpu}: cannot run there: {why}" for gpu, why in known["refusals"].items() if why]
    state: State = "ok"
    if refused:
        state = "problem" if asked_for else "note"
    text = "\n".join([f"there; it takes at most {limits}", *refused])
    return Finding("Engine", "CUDA module", text, state)


def _faces() -> Iterator[Finding]:
    asked_for = "ATTNPATCH_FACE_MODELS" in os.environ
    known, error = ask(_VISION, **{_BACKEND: None})
    state: State
    if error or not known["faces"]:
        state = "problem" if asked_for else "note"
        remedy = f"{PIP} --only-binary attnpatch attnpatch, or build where OpenCV and Eigen are"
        yield Finding("Faces", "attnpatch._vision", error or "without faces", state, remedy)
        return
    yield Finding("Faces", "attnpatch._vision", "there")
    named = os.environ.get("ATTNPATCH_FACE_MODELS", "").split(os.pathsep)
    for folder, is_there in known["folders"]:
        wanted = folder in {os.path.expanduser(part) for part in named}
        state = "ok" if is_there else "problem" if wanted else "note"
        yield Finding(
            "Faces", "model folder", f"{folder}{'' if is_there else ': not there'}", state
        )
