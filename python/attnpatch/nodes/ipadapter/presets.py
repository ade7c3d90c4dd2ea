# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The presets of the unified loaders: which files go together, found by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["COMMUNITY", "FACE", "PICTURE", "Preset", "find_file"]

# Names of the image encoders' files, as published and as ComfyUI's users know them.
_VIT_H = (r"ViT.H.14.*s32B.b79K", r"ipadapter.*sd15", r"sd1.?5.*model")
_VIT_G = (r"ViT.bigG.14.*39B.b160k", r"ipadapter.*sdxl", r"sdxl.*model")
_VIT_L_336 = (r"clip.vit.large.patch14.336",)


@dataclass(frozen=True)
class Preset:
    """One row of a unified loader's menu.

    Parameters
    ----------
    sd1, sdxl
        Names of adapters' files for the two kinds of models, the better first; none: there is no
        such adapter.
    encoder
        Names of the encoder's files.
    lora_sd1, lora_sdxl
        Names of the LoRA that goes with the adapter, if any.
    face
        It takes faces, so that a face analyser is needed.
    """

    sd1: tuple[str, ...] = ()
    sdxl: tuple[str, ...] = ()
    encoder: tuple[str, ...] = _VIT_H
    lora_sd1: str = ""
    lora_sdxl: str = ""
    face: bool = False


PICTURE: Mapping[str, Preset] = {
    "LIGHT - SD1.5 only (low strength)": Preset(("sd15_light_v11", "sd15_light")),
    "STANDARD (medium strength)": Preset(("ip-adapter_sd15",), ("ip-adapter_sdxl_vit-h",)),
    "VIT-G (medium strength)": Preset(("sd15_vit-G",), ("ip-adapter_sdxl",), _VIT_G),
    "PLUS (high strength)": Preset(("ip-adapter-plus_sd15",), ("plus_sdxl_vit-h",)),
    "PLUS FACE (portraits)": Preset(("plus-face_sd15",), ("plus-face_sdxl_vit-h",)),
    "FULL FACE - SD1.5 only (portraits stronger)": Preset(("full-face_sd15",)),
}
FACE: Mapping[str, Preset] = {
    "FACEID": Preset(
        ("faceid_sd15",),
        ("faceid_sdxl",),
        lora_sd1="faceid_sd15_lora",
        lora_sdxl="faceid_sdxl_lora",
        face=True,
    ),
    "FACEID PLUS - SD1.5 only": Preset(
        ("faceid-plus_sd15",), lora_sd1="faceid-plus_sd15_lora", face=True
    ),
    "FACEID PLUS V2": Preset(
        ("faceid-plusv2_sd15",),
        ("faceid-plusv2_sdxl",),
        lora_sd1="faceid-plusv2_sd15_lora",
        lora_sdxl="faceid-plusv2_sdxl_lora",
        face=True,
    ),
    "FACEID PORTRAIT (style transfer)": Preset(
        ("portrait-v11_sd15", "portrait_sd15"), ("portrait_sdxl",), face=True
    ),
    "FACEID PORTRAIT UNNORM - SDXL only (strong)": Preset((), ("portrait_sdxl_unnorm",), face=True),
}
COMMUNITY: Mapping[str, Preset] = {
    "Composition": Preset(("plus_composition_sd15",), ("plus_composition_sdxl",)),
    "Kolors": Preset((), ("ip_adapter_plus_general", "kolors-ip-adapter-plus"), _VIT_L_336),
}


def find_file(names: Sequence[str], files: Sequence[str], *, patterns: bool = False) -> str | None:
    """Find the first file whose name ends as the first of `names` that fits any.

    Parameters
    ----------
    names
        Ends of names without suffix, in which any character stands for -, _, and the like.
    files
        The files to choose from.
    patterns
        The names are regular expressions, to be found anywhere in a file's name.
    """
    for name in names:
        pattern = name if patterns else re.sub(r"[^a-zA-Z0-9]", ".", name)
        wanted = re.compile(
            rf"{pattern}\.(safetensors|bin){'' if patterns else '$'}", re.IGNORECASE
        )
        for file in files:
            if wanted.search(file):
                return file
    return None
