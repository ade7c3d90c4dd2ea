# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that load image adapters, image encoders and face analysers."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from attnpatch.engine import layer_table
from attnpatch.hosts.comfyui.host import unet_of
from attnpatch.hosts.comfyui.unet.layers import read_layer_table
from attnpatch.nodes import comfy
from attnpatch.nodes import inputs as common
from attnpatch.nodes.ipadapter.faces import load_analyser
from attnpatch.nodes.ipadapter.presets import COMMUNITY, FACE, PICTURE, Preset, find_file
from attnpatch.nodes.ipadapter.sockets import load_adapter
from attnpatch.nodes.spec import Input, NodeSpec, Output

__all__ = ["NODES"]

_PROVIDERS = ("CPU", "CUDA", "ROCM", "DirectML", "OpenVINO", "CoreML")

_encoders: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def _load(*, ipadapter_file: str) -> tuple[Any]:
    return (load_adapter(comfy.path_of("ipadapter", ipadapter_file, "ipadapter_file")),)


def _load_preset(
    *,
    model: Any,
    preset: str,
    presets: Mapping[str, Preset],
    ipadapter: Any,
    lora_strength: float = 0.0,
    provider: str = "CPU",
) -> tuple[Any, dict[str, Any]]:
    chosen = presets[preset]
    sdxl = _is_sdxl(model)
    names, lora = (chosen.sdxl, chosen.lora_sdxl) if sdxl else (chosen.sd1, chosen.lora_sd1)
    if not names:
        needs, has = ("SD1.5", "SDXL") if sdxl else ("SDXL", "SD1.5")
        raise ValueError(f"preset: {preset!r} exists for {needs} only; the model is {has}")
    loaded = ipadapter if isinstance(ipadapter, Mapping) else {}
    file = _find("ipadapter", names, preset)
    pipeline: dict[str, Any] = {
        "clipvision": _encoder(_find("clip_vision", chosen.encoder, preset), loaded),
        "ipadapter": {"file": str(file), "model": load_adapter(file)},
        "insightface": {"provider": None, "model": None},
    }
    if chosen.face:
        pipeline["insightface"] = {"provider": provider, "model": load_analyser("buffalo_l")}
    if lora and lora_strength > 0:
        model = _with_lora(model, _find("loras", (lora,), preset), lora_strength)
    return model, pipeline


def _is_sdxl(model: Any) -> bool:
    table = read_layer_table(unet_of(model))
    return table.spatial_count == layer_table("sdxl").spatial_count


def _find(folder: str, names: tuple[str, ...], preset: str) -> Path:
    """Find a preset's file in a folder of models, or say what was looked for."""
    comfy.register_folder(folder)
    files = comfy.files_in(folder)
    file = find_file(names, files, patterns=folder == "clip_vision")
    if file is None:
        wanted = " or ".join(names)
        raise FileNotFoundError(
            f"preset: {preset!r} needs a file like {wanted} in models/{folder}; "
            f"there is {', '.join(files[:8]) or 'none'}"
        )
    return comfy.path_of(folder, file, "preset")


def _encoder(path: Path, loaded: Mapping[str, Any]) -> dict[str, Any]:
    """Load an image encoder, or take the one that an earlier loader sent along."""
    earlier = loaded.get("clipvision") or {}
    if earlier.get("file") == str(path) and earlier.get("model") is not None:
        return dict(earlier)
    model = _encoders.get(str(path))
    if model is None:
        clip_vision = comfy.module("comfy.clip_vision")
        model = None if clip_vision is None else clip_vision.load(str(path))
        if model is None:
            raise ValueError(f"preset: {path.name} is no CLIP vision model that the host can load")
        _encoders[str(path)] = model
    return {"file": str(path), "model": model}


def _with_lora(model: Any, path: Path, strength: float) -> Any:
    utils, sd = comfy.module("comfy.utils"), comfy.module("comfy.sd")
    if utils is None or sd is None:
        raise RuntimeError("lora_strength: loading a LoRA needs ComfyUI, which is not running here")
    lora = utils.load_torch_file(str(path), safe_load=True)
    return sd.load_lora_for_models(model, None, lora, strength, 0)[0]


def _load_analyser(*, provider: str, model_name: str) -> tuple[Any]:
    return (load_analyser(model_name),)


def _adapter_files() -> list[str]:
    comfy.register_folder("ipadapter")
    return comfy.files_in("ipadapter")


def _preset_input(presets: Mapping[str, Preset]) -> Input:
    return Input(
        id="preset",
        type="COMBO",
        choices=tuple(presets),
        tooltip="Which adapter; its files are found by their names in models/ipadapter, "
        "models/clip_vision and models/loras.",
    )


def _provider(choices: tuple[str, ...]) -> Input:
    return Input(
        id="provider",
        type="COMBO",
        choices=choices,
        tooltip="Kept for old workflows: faces are computed on the CPU, which is fast enough.",
    )


_FROM_OTHER = Input(
    id="ipadapter",
    type="IPADAPTER",
    tooltip="From another unified loader: what it has loaded is not loaded again.",
    optional=True,
)
_OUTPUTS = (
    Output("MODEL", "model", "The model, with the adapter's LoRA where it has one."),
    Output("IPADAPTER", "ipadapter", "The adapter, its encoder and its face analyser."),
)

NODES = (
    NodeSpec(
        id="IPAdapterUnifiedLoader",
        title="IPAdapter Unified Loader",
        category="ipadapter",
        description="Loads an adapter that fits the model, and the encoder that fits the adapter.",
        inputs=(common.MODEL, _preset_input(PICTURE), _FROM_OTHER),
        outputs=_OUTPUTS,
        run=partial(_load_preset, presets=PICTURE),
    ),
    NodeSpec(
        id="IPAdapterUnifiedLoaderFaceID",
        title="IPAdapter Unified Loader FaceID",
        category="ipadapter/faceid",
        description="Loads an adapter for faces with its encoder, its LoRA and a face analyser.",
        inputs=(
            common.MODEL,
            _preset_input(FACE),
            Input(
                id="lora_strength",
                type="FLOAT",
                default=0.6,
                minimum=0,
                maximum=1,
                step=0.01,
                tooltip="How strong the LoRA that comes with the adapter is.",
            ),
            _provider(_PROVIDERS),
            _FROM_OTHER,
        ),
        outputs=(Output("MODEL", "MODEL", _OUTPUTS[0].tooltip), _OUTPUTS[1]),
        run=partial(_load_preset, presets=FACE),
    ),
    NodeSpec(
        id="IPAdapterUnifiedLoaderCommunity",
        title="IPAdapter Unified Loader Community",
        category="ipadapter/loaders",
        description="Loads an adapter that the community has made, with its encoder.",
        inputs=(common.MODEL, _preset_input(COMMUNITY), _FROM_OTHER),
        outputs=_OUTPUTS,
        run=partial(_load_preset, presets=COMMUNITY),
    ),
    NodeSpec(
        id="IPAdapterModelLoader",
        title="IPAdapter Model Loader",
        category="ipadapter/loaders",
        description="Loads an image adapter by its file's name.",
        inputs=(
            Input(
                id="ipadapter_file",
                type="COMBO",
                choices=_adapter_files,
                tooltip="A file in models/ipadapter, safetensors or bin. Its kind is told from its "
                "tensors.",
            ),
        ),
        outputs=(Output("IPADAPTER", "IPADAPTER", "The adapter alone."),),
        run=_load,
    ),
    NodeSpec(
        id="IPAdapterInsightFaceLoader",
        title="IPAdapter InsightFace Loader",
        category="ipadapter/loaders",
        description="Loads insightface's models for faces, which may be used for research only. "
        "Needs neither the package insightface nor onnxruntime.",
        inputs=(
            _provider(_PROVIDERS[:3]),
            Input(
                id="model_name",
                type="COMBO",
                choices=("buffalo_l", "antelopev2"),
                tooltip="A folder in models/insightface/models; FaceID wants buffalo_l, InstantID "
                "antelopev2.",
            ),
        ),
        outputs=(Output("INSIGHTFACE", "INSIGHTFACE", "The face analyser."),),
        run=_load_analyser,
    ),
)
