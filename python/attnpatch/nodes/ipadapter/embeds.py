# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that make, combine, save, load and apply the features of pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnpatch.adapters import ImageEmbeds, load_features, save_features
from attnpatch.adapters.combine import COMBINE_MODES, combine_features
from attnpatch.adapters.compat import Compat
from attnpatch.adapters.embeds import FORMAT
from attnpatch.adapters.embeds_files import load_embeds, read_metadata
from attnpatch.nodes import comfy
from attnpatch.nodes import inputs as common
from attnpatch.nodes.ipadapter.applying import make_prompts, patch
from attnpatch.nodes.ipadapter.encoding import Reference, blend_mask, encode, encode_black, hold
from attnpatch.nodes.ipadapter.image_prompts import settings_of, unpack_values
from attnpatch.nodes.ipadapter.sockets import Loaded
from attnpatch.nodes.spec import Input, NodeSpec, Output, Result

__all__ = ["NODES"]

_SUFFIXES = (".ipadpt", ".safetensors")


def _encode(
    *, image: Tensor, weight: float, mask: Tensor | None, **values: Any
) -> tuple[Tensor, Tensor]:
    loaded = unpack_values(values)
    form = _picture_form(loaded)
    if mask is not None:
        image = blend_mask(image, mask, getattr(loaded.clip_vision, "image_size", 224))
    positive = encode(loaded.clip_vision, image, form)
    if form == "hidden":
        negative = encode_black(loaded.clip_vision, form)
    else:
        negative = torch.zeros_like(positive)
    return positive * weight, negative


def _picture_form(loaded: Loaded) -> str:
    takes = loaded.adapter.takes
    if len(takes) > 1 or takes[0].form == "face":
        raise ValueError(
            f"ipadapter: this {loaded.adapter.kind} adapter takes {takes[0]}, not pictures alone; "
            "use IPAdapter FaceID"
        )
    return takes[0].form


def _combine(
    *, embed1: Tensor, method: str, reference_quirks: bool, **more: Tensor | None
) -> tuple[Tensor]:
    sockets = {"embed1": embed1, **more}
    parts = {name: embed for name, embed in sockets.items() if embed is not None}
    for name, embed in parts.items():
        if not isinstance(embed, Tensor):
            raise TypeError(
                f"{name}: expected features from an IPAdapter Encoder, got {type(embed).__name__}"
            )
        if embed.shape[1:] != embed1.shape[1:]:
            raise ValueError(
                f"{name}: expected features of shape (pictures, "
                f"{', '.join(map(str, embed1.shape[1:]))}) as embed1 has, got {tuple(embed.shape)}"
            )
    compat: Compat | None = "comfyui_ipadapter_plus" if reference_quirks else None
    return (combine_features(torch.cat(list(parts.values())), method, compat=compat),)


def _save(*, embeds: Tensor | ImageEmbeds, filename_prefix: str) -> Result:
    path = comfy.new_file(filename_prefix, ".safetensors")
    if isinstance(embeds, ImageEmbeds):
        embeds.save(path)
    else:
        save_features(path, embeds)
    return Result((), {"text": (f"saved {path.relative_to(comfy.folder('output'))}",)})


def _saved_files() -> list[str]:
    """List files of features in the host's input folder and, marked so, in its output folder."""
    if comfy.module("folder_paths") is None:
        return []
    top = comfy.folder("input")
    names = [path.relative_to(top).as_posix() for path in top.rglob("*") if _is_file(path)]
    # Output folders may hold very many files: only the top is looked through.
    saved = [f"{path.name} [output]" for path in comfy.folder("output").glob("*") if _is_file(path)]
    return sorted(names) + sorted(saved)


def _is_file(path: Path) -> bool:
    return path.suffix in _SUFFIXES


def _saved_path(name: str) -> Path:
    top = comfy.folder("output" if name.endswith(" [output]") else "input").resolve()
    path = (top / name.removesuffix(" [output]").removesuffix(" [input]")).resolve()
    if not path.is_relative_to(top) or not path.is_file():
        raise FileNotFoundError(f"embeds: no file {name!r} in {top}")
    return path


def _load(*, embeds: str) -> tuple[Tensor | ImageEmbeds]:
    path = _saved_path(embeds)
    if read_metadata(path).get("format") == FORMAT:
        return (load_embeds(path),)
    return (load_features(path)[0],)


def _loaded_state(*, embeds: str) -> tuple[int, int]:
    stat = _saved_path(embeds).stat()
    return stat.st_mtime_ns, stat.st_size


def _check_file(cls: type, embeds: str) -> bool | str:
    try:
        _saved_path(embeds)
    except FileNotFoundError as error:
        return str(error)
    return True


def _apply(
    *, pos_embed: Tensor | ImageEmbeds, neg_embed: Tensor | None, **values: Any
) -> tuple[Any]:
    loaded = unpack_values(values)
    reference: Reference | ImageEmbeds
    if isinstance(pos_embed, ImageEmbeds):
        reference = pos_embed
    else:
        reference = Reference((pos_embed,), (_negative(loaded, pos_embed, neg_embed),))
    prompts = make_prompts(values["model"], loaded.adapter, reference, settings_of(values))
    return (patch(values["model"], prompts),)


def _negative(loaded: Loaded, positive: Tensor, negative: Tensor | None) -> Tensor:
    if negative is not None:
        return hold(negative, len(positive))
    if loaded.adapter.takes[0].form == "hidden":
        return encode_black(loaded.clip_vision, "hidden")
    return torch.zeros_like(positive[:1])


def _embeds(name: str, tooltip: str, optional: bool = False) -> Input:
    return Input(id=name, type="EMBEDS", tooltip=tooltip, optional=optional)


_CATEGORY = "ipadapter/embeds"
_APPLY_INPUTS = (
    common.MODEL,
    common.IPADAPTER,
    _embeds("pos_embed", "Features of the reference, from an Encoder or a file."),
    common.weight(maximum=3),
    common.WEIGHT_TYPE,
    common.START_AT,
    common.END_AT,
    common.EMBEDS_SCALING,
    _embeds(
        "neg_embed",
        "Features of what the result must not look like. Without them: a black picture, which "
        "needs clip_vision, or zeros, as the adapter was trained.",
        optional=True,
    ),
    common.ATTN_MASK,
    common.CLIP_VISION,
    common.REFERENCE_QUIRKS,
)

NODES = (
    NodeSpec(
        id="IPAdapterEncoder",
        title="IPAdapter Encoder",
        category=_CATEGORY,
        description="Encodes pictures to features, which can be combined, saved and applied.",
        inputs=(
            common.IPADAPTER,
            common.image(),
            common.weight(
                maximum=3.0, minimum=-1.0, step=0.01, what="Multiplies the picture's features."
            ),
            Input(
                id="mask",
                type="MASK",
                tooltip="The part of the picture that the encoder sees.",
                optional=True,
            ),
            common.CLIP_VISION,
        ),
        outputs=(
            Output("EMBEDS", "pos_embed", "Features of the pictures."),
            Output("EMBEDS", "neg_embed", "Features of no picture, to go with them."),
        ),
        run=_encode,
    ),
    NodeSpec(
        id="IPAdapterCombineEmbeds",
        title="IPAdapter Combine Embeds",
        category=_CATEGORY,
        description="Makes one set of features of several.",
        inputs=(
            _embeds("embed1", "Features."),
            Input(
                id="method",
                type="COMBO",
                choices=tuple(mode for mode in COMBINE_MODES if mode != "batch"),
                tooltip="What they become: all of them, their sum, the first less the others' "
                "mean, a mean, or the largest or smallest of each value.",
            ),
            *(_embeds(f"embed{n}", "More features.", optional=True) for n in range(2, 6)),
            common.REFERENCE_QUIRKS,
        ),
        outputs=(Output("EMBEDS", "EMBEDS", "The combined features."),),
        run=_combine,
    ),
    NodeSpec(
        id="IPAdapterEmbeds",
        title="IPAdapter Embeds",
        category=_CATEGORY,
        description="Adds features of pictures to the prompt.",
        inputs=_APPLY_INPUTS,
        outputs=(common.MODEL_OUT,),
        run=_apply,
    ),
    NodeSpec(
        id="IPAdapterEmbedsBatch",
        title="IPAdapter Embeds Batch",
        category=_CATEGORY,
        description="Gives each picture of the batch features of its own.",
        inputs=_APPLY_INPUTS,
        outputs=(common.MODEL_OUT,),
        run=partial(_apply, unfold=True),
    ),
    NodeSpec(
        id="IPAdapterSaveEmbeds",
        title="IPAdapter Save Embeds",
        category=_CATEGORY,
        description="Saves features in the output folder, as a safetensors file.",
        inputs=(
            _embeds("embeds", "Features from an Encoder."),
            Input(
                id="filename_prefix",
                type="STRING",
                default="IP_embeds",
                tooltip="The front of the file's name. It is written as safetensors, which can "
                "hold no code; older .ipadpt files can still be loaded.",
            ),
        ),
        outputs=(),
        run=_save,
        output_node=True,
    ),
    NodeSpec(
        id="IPAdapterLoadEmbeds",
        title="IPAdapter Load Embeds",
        category=_CATEGORY,
        description="Loads features from the input or the output folder. Code in files is never "
        "run.",
        inputs=(
            Input(
                id="embeds",
                type="COMBO",
                choices=_saved_files,
                tooltip="A .safetensors or .ipadpt file in the input or the output folder.",
            ),
        ),
        outputs=(Output("EMBEDS", "EMBEDS", "The features."),),
        run=_load,
        fingerprint=_loaded_state,
        check=_check_file,
    ),
)
