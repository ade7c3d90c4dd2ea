# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A host with a small UNet, small adapters that fit it, and stand-ins for the host's modules."""

import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

HERE = Path(__file__).parent
for neighbour in (HERE, HERE.parent / "hosts", HERE.parent / "adapters"):
    sys.path.insert(0, str(neighbour))

from fake_adapters import Maker  # noqa: E402
from fake_encoders import FakeClipVision, FakeFaces  # noqa: E402
from protocol_sampling import ComfyPatcher, make_comfy, make_inputs  # noqa: E402
from protocol_unet import SD1, SDXL  # noqa: E402

CONTEXT = 24
WIDTH = 16
HEAD = 8


@pytest.fixture
def clip_vision():
    return FakeClipVision()


@pytest.fixture
def analyser():
    return FakeFaces()


@pytest.fixture
def image():
    """Make pictures (count, H, W, 3) of random colours."""

    def make(count=1, height=32, width=32, seed=0):
        generator = torch.Generator().manual_seed(100 + seed)
        return torch.rand(count, height, width, 3, generator=generator)

    return make


PROJECTIONS = {
    "linear": ("image_projection", {"embed": 1024, "context": CONTEXT}),
    "plus": ("resampler", {"embed": 40, "dim": 48, "heads": 1, "depth": 1, "queries": 6,
                           "output": CONTEXT}),
    "faceid": ("mlp", {"embed": 512, "context": CONTEXT}),
    "faceid_plus": ("face_perceiver", {"face": 512, "embed": 40, "context": CONTEXT, "heads": 1,
                                       "depth": 1}),
}  # fmt: skip


@pytest.fixture
def raw_adapter():
    """Make the state dict of an adapter for the small UNet."""

    def make(kind="linear", structure=SD1):
        maker = Maker(seed=3)
        name, numbers = PROJECTIONS[kind]
        channels = [multiplier * WIDTH for _, multiplier, _ in structure.sites()]
        sites = maker.sites(channels, CONTEXT)
        if kind.startswith("faceid"):
            sites |= maker.lora(channels)
        return {"image_proj": getattr(maker, name)(**numbers), "ip_adapter": sites}

    return make


@cache
def base_model(structure):
    return make_comfy(structure, WIDTH).model


@pytest.fixture
def model():
    """Make ComfyUI's patcher of a small model; nothing here may change the model itself."""

    def make(structure=SD1):
        return ComfyPatcher(base_model(structure))

    return make


@pytest.fixture
def render():
    """Run a model once; [uncond, cond] of a batch."""

    def run(model, structure=SD1, *, batch=1, sigma=5.0, size=(8, 8), chunks=(1, 0)):
        x, contexts = make_inputs(structure, batch=batch, size=size)
        return model.apply(x, sigma, contexts, list(chunks))

    return run


@pytest.fixture(params=["SD1", "SDXL"])
def structure(request):
    return {"SD1": SD1, "SDXL": SDXL}[request.param]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A stand-in for the host's ``folder_paths`` over temporary folders."""
    paths = ModuleType("folder_paths")
    known = {}
    for name in ("ipadapter", "clip_vision", "loras"):
        (tmp_path / "models" / name).mkdir(parents=True)
    for name in ("clip_vision", "loras"):
        known[name] = ([str(tmp_path / "models" / name)], {".safetensors", ".bin"})
    for name in ("input", "output"):
        (tmp_path / name).mkdir()

    def get_filename_list(name):
        found = [p.name for where in known[name][0] for p in Path(where).iterdir()]
        return sorted(n for n in found if Path(n).suffix in known[name][1])

    def get_full_path(name, file):
        places = (Path(where) / file for where in known[name][0])
        return next((str(place) for place in places if place.is_file()), None)

    def get_save_image_path(prefix, output):
        name = Path(prefix).name
        count = sum(p.name.startswith(f"{name}_") for p in Path(output).iterdir())
        return output, name, count + 1, "", prefix

    paths.folder_names_and_paths = known
    paths.models_dir = str(tmp_path / "models")
    paths.supported_pt_extensions = {".safetensors", ".bin", ".pt"}
    paths.get_filename_list = get_filename_list
    paths.get_full_path = get_full_path
    paths.get_folder_paths = lambda name: known[name][0]
    paths.get_input_directory = lambda: str(tmp_path / "input")
    paths.get_output_directory = lambda: str(tmp_path / "output")
    paths.get_save_image_path = get_save_image_path
    paths.root = tmp_path
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    return paths
