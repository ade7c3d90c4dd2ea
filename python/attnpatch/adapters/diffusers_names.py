# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Projections as diffusers renames them when it loads an adapter, back to the published names."""

from __future__ import annotations

import re

import torch

Tensors = dict[str, torch.Tensor]

# Earlier releases of diffusers number the parts of a layer that later ones name.
_LAYER = re.compile(
    r"layers\.(?P<layer>\d+)\."
    r"(?:(?P<norm1>ln0|0)|(?P<norm2>ln1|1)|(?:attn|2)\.(?P<attention>to_\w+)(?:\.0)?"
    r"|(?:ff|3)\.(?P<norm>0)|(?:ff|3)\.1\.net\.(?P<linear>0\.proj|2))\.(?P<leaf>weight|bias)"
)
_PERCEIVER = re.compile(r"(proj_in|proj_out|norm_out|layers)\.")
_MARK = re.compile(r"image_embeds\.|ff\.net\.|proj\.net\.|layers\.\d+\.(attn|2|ff|3|ln0)\.")


def has_diffusers_names(names: list[str]) -> bool:
    """Whether tensors of a projection go by diffusers' names."""
    return any(_MARK.match(name) for name in names)


def to_published_names(tensors: Tensors) -> Tensors:
    """Rename the tensors of one image projection of diffusers.

    Keys and values of a perceiver's attention, which diffusers splits, become one tensor again. A
    name that is none of diffusers' is kept.

    Raises
    ------
    ValueError
        Keys without values, values without keys, both of different shapes; or such as require a
        gradient, while gradients are enabled.
    """
    renamed: Tensors = {}
    halves: dict[str, Tensors] = {}
    face = any(name.startswith("proj.net.") for name in tensors)
    for name, tensor in tensors.items():
        new = _rename(name, tensors)
        if face and _PERCEIVER.match(new):
            new = f"perceiver_resampler.{new}"
        if match := re.fullmatch(r"(.*)\.to_([kv])\.weight", new):
            halves.setdefault(match[1], {})[match[2]] = tensor
        else:
            renamed[new] = tensor
    for attention, pair in halves.items():
        lacking = [letter for letter in "kv" if letter not in pair]
        if lacking:
            raise ValueError(f"image_proj: missing {attention}.to_{lacking[0]}.weight")
        if pair["k"].shape != pair["v"].shape:
            raise ValueError(
                f"image_proj: {attention}.to_k.weight is {tuple(pair['k'].shape)}, "
                f"to_v.weight {tuple(pair['v'].shape)}; both must be the same"
            )
        joined = torch.cat([pair["k"], pair["v"]])
        if joined.requires_grad:
            raise ValueError(
                f"image_proj: expected {attention}.to_kv.weight where weights require a gradient, "
                "got to_k and to_v, of which a joined copy would not follow an optimiser; join the "
                "parameters first, or copy their values in torch.no_grad()"
            )
        renamed[f"{attention}.to_kv.weight"] = joined
    return renamed


def _rename(name: str, tensors: Tensors) -> str:
    if match := _LAYER.fullmatch(name):
        layer, leaf = f"layers.{match['layer']}", match["leaf"]
        if match["norm1"] or match["norm2"]:
            return f"{layer}.0.norm{1 if match['norm1'] else 2}.{leaf}"
        if match["attention"]:
            return f"{layer}.0.{match['attention']}.{leaf}"
        if match["norm"]:
            return f"{layer}.1.0.{leaf}"
        return f"{layer}.1.{1 if match['linear'] == '0.proj' else 3}.{leaf}"
    parent, _, leaf = name.rpartition(".")
    if parent == "norm" and "ff.net.2.weight" in tensors and _maps_every_token(tensors):
        return f"proj.3.{leaf}"
    new = {
        "image_embeds": "proj",
        "ff.net.0.proj": "proj.0",
        "ff.net.2": "proj.2",
        "proj.net.0.proj": "proj.0",
        "proj.net.2": "proj.2",
    }.get(parent)
    return name if new is None else f"{new}.{leaf}"


def _maps_every_token(tensors: Tensors) -> bool:
    """Whether an MLP makes one token of one: full-face; FaceID's has the same names."""
    out, norm, into = (
        tensors.get(name) for name in ("ff.net.2.weight", "norm.weight", "ff.net.0.proj.weight")
    )
    if out is None or norm is None or into is None or into.dim() != 2:
        return False
    return out.shape[0] == norm.shape[0] and into.shape[0] == into.shape[1]
