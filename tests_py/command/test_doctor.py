# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of packages, engine and hosts, and its exit status."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import pytest

import attnpatch
import attnpatch_command
from attnpatch import ops
from attnpatch_command import doctor, engine, host_folders, packages
from attnpatch_command.findings import Finding, as_json, as_text


def by_name(findings):
    return {finding.name: finding for finding in findings}


@pytest.fixture
def installed(monkeypatch):
    """Replace what is installed by name and version."""

    def replace(versions, requires=None):
        def version(name):
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr(metadata, "requires", (requires or {}).get)

    return replace


NEEDED = {"attnpatch": "0.1.0", "torch": "2.12.1", "numpy": "2.0", "safetensors": "0.5"}


def test_what_is_optional_and_missing_comes_with_its_command(installed):
    installed(NEEDED)
    found = by_name(packages.examine())
    assert {name for name, f in found.items() if f.state == "problem"} == set()
    assert found["diffusers"].state == "note"
    assert found["diffusers"].remedy == f'"{sys.executable}" -m pip install "attnpatch[diffusers]"'
    assert found["torch"] == Finding("Versions", "torch", "2.12.1")


def test_every_extra_for_users_has_its_command():
    extras = set(metadata.metadata("attnpatch").get_all("Provides-Extra"))
    told = {
        extra
        for extra in extras
        for _, brings in packages._OPTIONAL.values()
        if f"[{extra}]" in brings
    }
    assert extras - told == {"test", "docs", "release", "dev"}


def test_what_is_too_old_is_a_problem(installed):
    installed(NEEDED | {"torch": "2.9.1+cu128", "diffusers": "0.35.0"})
    found = by_name(packages.examine())
    assert found["torch"].state == "problem"
    assert found["torch"].value == "2.9.1+cu128: expected 2.10 or newer"
    assert found["torch"].remedy.endswith('install "torch>=2.10"')
    assert found["diffusers"].state == "ok"


def test_what_is_needed_and_missing_is_a_problem(installed):
    installed({"attnpatch": "0.1.0", "numpy": "2.0", "safetensors": "0.5"})
    assert by_name(packages.examine())["torch"].state == "problem"


@pytest.mark.parametrize(
    ("name", "version", "requires", "state"),
    [
        ("torchvision", "0.30.0", ["numpy", "torch==2.15.0"], "note"),
        ("torchvision", "0.27.0", ["numpy", "torch==2.12.0"], "ok"),
        ("torchaudio", "2.11.0", None, "note"),  # names no torch
        ("torchaudio", "2.12.0", None, "ok"),
        ("xformers", "0.1", ["torch>=2.10"], "ok"),
    ],
)
def test_what_is_built_for_another_torch_is_told(installed, name, version, requires, state):
    installed(NEEDED | {name: version}, {name: requires})
    found = by_name(packages.examine())[name]
    assert found.state == state
    assert bool(found.remedy) == (state == "note")


def test_a_folder_of_comfyui(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(host_folders.COMFYUI_VARIABLE, raising=False)
    assert not list(host_folders.examine([]))
    folder = tmp_path / "ComfyUI"
    for part in (
        "models/ipadapter/deeper",
        "models/controlnet",
        "custom_nodes/ComfyUI_IPAdapter_plus",
    ):
        (folder / part).mkdir(parents=True)
    (folder / "comfyui_version.py").write_text('__version__ = "0.30.0"\n')
    (folder / "models/ipadapter/deeper/a.safetensors").touch()
    for name in ("put_controlnets_and_t2i_here", "a.safetensors", "b.safetensors"):
        (folder / "models/controlnet" / name).touch()
    (folder / "models/clip_vision").mkdir()
    (folder / "models/clip_vision/put_clip_vision_models_here").touch()
    (folder / "extra_model_paths.yaml").touch()
    for found in (
        by_name(host_folders.examine([folder])),
        (monkeypatch.chdir(folder / "models"), by_name(host_folders.examine([])))[1],
        (monkeypatch.setenv("ATTNPATCH_COMFYUI", str(folder)), by_name(host_folders.examine([])))[
            1
        ],
    ):
        assert found["ComfyUI"].value == f"0.30.0 in {folder}"
        assert found["models/ipadapter"].value == "1 file"
        assert found["models/controlnet"].value == "2 files"
        assert found["models/clip_vision"].value == "empty"
        assert found["models/loras"].state == "note"
        assert found["extra_model_paths.yaml"].state == "note"
        assert found["attnpatch_nodes"].value == "not there"
        assert "names of ours" in found["ComfyUI_IPAdapter_plus"].value


def test_a_folder_that_is_no_host_is_a_problem(tmp_path):
    (found,) = (f for f in host_folders.examine([tmp_path / "none"]) if f.state == "problem")
    assert str(tmp_path / "none") in found.value


def without_diffusers(monkeypatch):
    """It takes long to import."""
    there = engine.version
    monkeypatch.setattr(
        engine, "version", lambda name: there(name) if name != "diffusers" else None
    )


def test_without_torch_it_is_torch_that_is_missing(monkeypatch):
    """No advice to install the package again, and nothing else said of what follows from it."""
    monkeypatch.setattr(engine, "version", {"numpy": "2.0", "diffusers": "0.42.0"}.get)
    monkeypatch.setattr(engine, "ask", lambda *_, **__: pytest.fail("it was asked"))
    assert list(engine.examine()) == [
        Finding(
            *("Engine", "attnpatch._core", "cannot be loaded without torch, safetensors"),
            "problem",
        )
    ]


@pytest.mark.slow
def test_the_engine_as_it_is_here(monkeypatch):
    monkeypatch.delenv("ATTNPATCH_BACKEND", raising=False)
    without_diffusers(monkeypatch)
    findings = list(engine.examine())
    assert not [finding for finding in findings if finding.state == "problem"]
    best, *_ = attnpatch._core.cpu_targets()
    told = by_name(findings)["instruction sets"].value
    names = {
        "AVX3": "AVX-512",
        "AVX3_BF16": "AVX-512 with bf16",
        "AVX3_AMX": "AVX-512 with AMX",
        "NEON_BF16": "NEON with bf16",
        "SCALAR": "scalar",
    }
    assert told.startswith(names.get(best, best))
    operators = {f.name: f.value for f in findings if f.section == "Operators"}
    assert set(operators) == {name for name in ops.__all__ if f"{name}_reference" in ops.__all__}
    assert all(value.startswith("cpu: kernel") for value in operators.values())


@pytest.mark.parametrize(
    ("backend", "device", "verdicts", "told"),
    [
        ("auto", "cpu", [], "kernel"),
        ("auto", "cuda:0", [], "plain torch"),
        (
            "auto",
            "cuda:0",
            [True, False, True],
            "kernel for 2 of 3 kinds of calls measured, else plain torch",
        ),
        ("auto", "cpu", [False], "kernel for 0 of 1 kinds of calls measured, else kernel"),
        ("cuda", "cuda:0", [False], "kernel"),
        ("plain", "cpu", [True], "plain torch"),
        ("reference", "cpu", [], "reference"),
    ],
)
def test_what_serves_an_operator(backend, device, verdicts, told):
    assert engine._serves(backend, device, verdicts) == told


@pytest.mark.slow
def test_a_backend_that_cannot_work_is_a_problem_and_the_rest_is_still_told(monkeypatch, capsys):
    monkeypatch.setenv("ATTNPATCH_BACKEND", "fast")
    without_diffusers(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["attnpatch", "doctor", "--json"])
    assert attnpatch_command.main() == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    found = {finding["name"]: finding for finding in told["findings"]}
    assert found["ATTNPATCH_BACKEND=fast"]["state"] == "problem"
    assert "expected one of" in found["ATTNPATCH_BACKEND=fast"]["value"]
    assert found["branch_attention"]["state"] == "ok"


def test_a_backend_that_cannot_work_is_no_problem_of_diffusers(monkeypatch):
    """It would keep attnpatch, and with it its host, from being imported: one problem, not two."""
    monkeypatch.setenv("ATTNPATCH_BACKEND", "fast")
    asked = {}

    def ask(code, **environment):
        asked[code] = environment
        return {}, ""

    monkeypatch.setattr(engine, "ask", ask)
    monkeypatch.setattr(engine, "_operators", list)
    monkeypatch.setattr(engine, "_faces", list)
    list(engine.examine())
    assert asked == {engine._DIFFUSERS: {"ATTNPATCH_BACKEND": None}}


@pytest.mark.parametrize(("backend", "state"), [("auto", "ok"), ("cuda", "problem")])
def test_cuda_that_is_asked_for_without_a_gpu_is_a_problem(monkeypatch, backend, state):
    here = {"instruction_sets": ["AVX2"], "gpus": [], "cuda_module": True}
    here |= {"operators": [], "verdicts": {}, "torch_is_for": "CUDA 13.0"}
    module = {"limits": {"head_size": 160}, "refusals": {}}
    answers = {engine._ENGINE: here | {"backend": backend}, engine._CUDA: module}
    monkeypatch.setattr(engine, "ask", lambda code, **environment: (answers[code], ""))
    found = by_name(engine._operators())
    assert found["GPUs"].state == state
    assert found["GPUs"].value.endswith("built for CUDA 13.0")
    assert found["CUDA module"] == Finding(
        "Engine", "CUDA module", "there; it takes at most head_size 160"
    )


@pytest.mark.parametrize(("backend", "state"), [("auto", "note"), ("cuda", "problem")])
def test_kernels_that_cannot_run_on_a_gpu_say_why(monkeypatch, backend, state):
    here = {"instruction_sets": ["AVX2"], "gpus": ["one", "two"], "cuda_module": True}
    here |= {"operators": ["blur_and_blend"], "backend": backend}
    here["verdicts"] = {
        "cpu": [],
        "cuda:0": [["blur_and_blend", True, "torch.float16 small"], ["other", True, "no"]],
        "cuda:1": [["blur_and_blend", False, "torch.float16 large"]],
    }
    refusals = {"cuda:0": "", "cuda:1": "built with CUDA 13.0, the driver takes CUDA 12.4"}
    module = {"limits": {"head_size": 160}, "refusals": refusals}
    answers = {engine._ENGINE: here, engine._CUDA: module}
    monkeypatch.setattr(engine, "ask", lambda code, **environment: (answers[code], ""))
    found = by_name(engine._operators())
    assert found["CUDA module"].state == state
    assert found["CUDA module"].value.splitlines()[1:] == [
        f"cuda:1: cannot run there: {refusals['cuda:1']}"
    ]
    first, *admitted = found["blur_and_blend"].value.splitlines()
    assert first.startswith("cpu: kernel; cuda:0: ")
    assert admitted == ["cuda:0: torch.float16 small"]


def test_face_models_that_are_asked_for_and_not_there_are_a_problem(monkeypatch, tmp_path):
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(
        engine,
        "ask",
        lambda code, **environment: (
            {"faces": True, "folders": [[str(tmp_path / "there"), True], ["/none", False]]},
            "",
        ),
    )
    monkeypatch.setenv("ATTNPATCH_FACE_MODELS", f"{tmp_path / 'there'}")
    assert [f.state for f in engine._faces()] == ["ok", "ok", "note"]
    monkeypatch.setenv("ATTNPATCH_FACE_MODELS", "/none")
    assert [f.state for f in engine._faces()] == ["ok", "ok", "problem"]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit(3)", "exit status 3"),
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "it was ended by SIGILL"),
    ],
)
def test_a_process_that_fails_is_told_of(code, told):
    assert engine.ask(code) == ({}, told)


def test_text_and_json_say_the_same():
    findings = [
        Finding("Versions", "torch", "2.15.0"),
        Finding("Hosts", "folder", "first\nsecond", "problem", "pip install it"),
        Finding("Hosts", "pack", "not there", "note"),
    ]
    text = as_text(findings)
    for finding in findings:
        assert all(part in text for part in (finding.name, *finding.value.split("\n")))
    assert "→ pip install it" in text and text.endswith("Cannot work: folder")
    assert as_json(findings)["ok"] is False and as_json(findings[:1])["ok"] is True
    assert as_text(findings[:1]).endswith("No problem found.")


def test_sections_are_in_one_order(monkeypatch):
    for module, section in ((packages, "Packs"), (engine, "Hosts"), (host_folders, "Versions")):
        finding = Finding(section, section, "")
        monkeypatch.setattr(module, "examine", lambda *_, finding=finding: [finding])
    assert [finding.section for finding in doctor.examine()] == ["Versions", "Hosts", "Packs"]


def test_a_package_that_cannot_be_imported_points_to_the_doctor(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "attnpatch", None)
    monkeypatch.setattr(sys, "argv", ["attnpatch", "demo"])
    assert attnpatch_command.main() == 1
    assert capsys.readouterr().err.endswith("More is said by: attnpatch doctor\n")


@pytest.mark.parametrize("missing", packages.NEEDED)
def test_a_needed_package_that_is_missing_is_named_with_what_brings_it(
    monkeypatch, capsys, missing
):
    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name == "attnpatch":
                raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.delitem(sys.modules, "attnpatch")
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    monkeypatch.setattr(sys, "argv", ["attnpatch", "demo"])
    assert attnpatch_command.main() == 1
    assert capsys.readouterr().err == (
        f'attnpatch: {missing} is not installed: "{sys.executable}" -m pip install {missing}\n'
        "More is said by: attnpatch doctor\n"
    )
