# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""From the inputs of an apply node to image prompts in a model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import attnpatch
from attnpatch.adapters import ImageAdapter, ImageEmbeds
from attnpatch.adapters.compat import Compat
from attnpatch.adapters.inputs import hash_tensors
from attnpatch.engine import layer_table
from attnpatch.engine.cache import Cache
from attnpatch.hosts.comfyui.unet.layers import token_projection
from attnpatch.nodes import comfy
from attnpatch.nodes.ipadapter.encoding import Reference
from attnpatch.patches import ImagePrompt, split_by_weight_type

__all__ = ["Settings", "make_prompts", "patch"]

logger = logging.getLogger("attnpatch")

# Keys and values of the latest references: 11 MB a picture in SDXL, for half precision.
_kept = Cache(size=4)
_MOST_KEPT = 8  # pictures in one of them

# Where a host does not name them, the third conditioning is the picture's own: two guidance scales.
_ROLES = {2: "cond"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an apply node asks for, beside pictures.

    Parameters
    ----------
    weight, composition
        Numbers, or lists of one for each picture of a batch; composition None: as the weight.
    weight_type, layers
        As for ``split_by_weight_type``.
    combine
        What several pictures become.
    start, end, mask, scaling, compat
        As for ``ImagePrompt``.
    unfold
        Each picture is for one picture of the batch.
    face_structure
        How much of the picture beside the face embedding counts; None: twice the weight.
    through_model
        How strong tokens come out of the model's own projection, where they go through it.
    """

    weight: Any = 1.0
    composition: Any = None
    weight_type: str = "linear"
    layers: str = ""
    combine: str = "concat"
    start: float = 0.0
    end: float = 1.0
    mask: Tensor | None = None
    scaling: str = "V only"
    unfold: bool = False
    face_structure: float | None = None
    through_model: float = 1.0
    compat: Compat | None = None


def make_prompts(
    model: Any, adapter: ImageAdapter, reference: Reference | ImageEmbeds, settings: Settings
) -> list[ImagePrompt]:
    """Make the image prompts of one reference.

    Parameters
    ----------
    model
        The host's; says what to compute in.
    adapter
        Makes tokens, keys and values.
    reference
        Features of pictures, or ready tokens.
    settings
        The rest.
    """
    prompt = _project(model, adapter, reference, settings).replace(
        mask=settings.mask,
        start=settings.start,
        end=settings.end,
        scaling=settings.scaling,
        roles=_ROLES,
        repeat_last=True,
        compat=settings.compat,
    )
    return split_by_weight_type(
        prompt,
        settings.weight_type,
        _number(settings.weight, settings.unfold),
        _number(settings.composition, settings.unfold),
        _known_layers(settings.layers, adapter.site_count),
    )


def patch(model: Any, prompts: Sequence[ImagePrompt]) -> Any:
    """Return a patched clone of the host's model."""
    return attnpatch.patch_model(model, list(prompts))


def _project(
    model: Any, adapter: ImageAdapter, reference: Reference | ImageEmbeds, settings: Settings
) -> ImagePrompt:
    """Make keys and values, or take those of an earlier run: a changed weight costs nothing."""
    device, dtype = comfy.compute_device(), comfy.compute_dtype(model)
    options = () if isinstance(reference, ImageEmbeds) else _token_options(adapter, settings)
    count = reference.pictures
    through = _through(model, adapter)

    def make() -> ImagePrompt:
        moved, embeds = adapter.to(device, dtype), reference
        if not isinstance(embeds, ImageEmbeds):
            embeds = _make_tokens(moved, embeds, dict(options))
        if through and embeds.context_dim == adapter.token_dim:
            embeds = embeds.through(*through.values(), scale=settings.through_model)
        return ImagePrompt(moved, embeds)

    if count > _MOST_KEPT:
        return make()
    if isinstance(reference, ImageEmbeds):
        tensors = {"cond": reference.cond, "uncond": reference.uncond}
    else:
        tensors = reference.tensors()
    if any(tensor.requires_grad for tensor in tensors.values()):
        return make()  # of values that change
    inputs = hash_tensors(tensors | through)
    key = (adapter.digest, device, dtype, options, settings.through_model, inputs)
    return _kept.get(key, make)


def _through(model: Any, adapter: ImageAdapter) -> dict[str, Tensor]:
    """Find what the adapter's tokens go through in the model first: weight and bias, or nothing."""
    if adapter.token_dim == adapter.context_dim:
        return {}
    unet = model.model.diffusion_model
    projection = token_projection(unet)
    if projection is None:
        raise ValueError(
            f"model: this is the FaceID adapter for Kolors, and the model's {type(unet).__name__} "
            "is not Kolors' (it has no encoder_hid_proj); load Kolors with a pack that brings its "
            "UNet, or take a FaceID adapter for SDXL"
        )
    return {
        name: t for name, t in zip(("weight", "bias"), projection, strict=True) if t is not None
    }


def _token_options(adapter: ImageAdapter, settings: Settings) -> tuple[tuple[str, Any], ...]:
    """Say how features become tokens, in the adapter's words."""
    structure = settings.face_structure
    if adapter.kind != "faceid_plus_v2":
        structure = 1.0
    elif structure is None:
        structure = 2 * float(_number(settings.weight, False))
    return (
        ("combine", "batch" if settings.unfold else settings.combine),
        ("shortcut_scale", structure),
        ("compat", settings.compat),
    )


def _make_tokens(
    adapter: ImageAdapter, reference: Reference, options: dict[str, Any]
) -> ImageEmbeds:
    if reference.pictures == 1:  # nothing to combine
        options = {**options, "combine": "concat"}
    return adapter.get_image_embeds(
        reference.features("positive"), reference.features("negative"), **options
    )


def _number(value: Any, unfold: bool) -> Any:
    """Take a list as it is for a batch, else its first number."""
    if not isinstance(value, list | tuple):
        return value
    if not value:
        raise ValueError("weight: expected at least one number, got an empty list")
    return [float(number) for number in value] if unfold else float(value[0])


def _known_layers(layers: str, sites: int) -> str:
    """Leave out weights for spatial transformers that the UNet does not have, and say so."""
    table = next((t for t in map(layer_table, ("sd1", "sdxl")) if len(t) == sites), None)
    pairs = [pair.strip() for pair in layers.replace("\n", ",").split(",") if pair.strip()]
    if table is None:
        return ", ".join(pairs)
    kept: list[str] = []
    dropped: list[str] = []
    for pair in pairs:
        t = pair.split(":")[0].strip()
        outside = t.isdecimal() and int(t) >= table.spatial_count
        (dropped if outside else kept).append(pair)
    if dropped:
        logger.warning(
            "layer_weights: %s left out; %s has spatial transformers 0 to %d",
            ", ".join(dropped), table.family, table.spatial_count - 1,
        )  # fmt: skip
    return ", ".join(kept)
