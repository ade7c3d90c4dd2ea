# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which parameters a study may name: of the model, of the pipeline's call, of each patch."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from attnpatch.engine import Patch, Weight
from attnpatch.patches import (
    Guidance,
    HyperTile,
    Identity,
    ImagePrompt,
    NearSightedAttention,
    NearSightedTile,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SlothfulAttention,
    SmoothedEnergyGuidance,
    TokenMerging,
)
from attnpatch.studies.names import unknown_name
from attnpatch.studies.table import Table
from attnpatch.studies.values import boolean

__all__ = [
    "ENCODING",
    "FACE_PACK",
    "FILES",
    "KINDS",
    "MODEL",
    "MODEL_FILES",
    "PIPELINE",
    "SOURCES",
    "changed",
    "check_types",
    "is_none",
    "kind_of",
    "options_of",
    "patch_options",
    "pipeline_default",
]

MODEL = ("source", "image_encoder", "family", "device", "dtype")
"""Of the model: what it is, its encoder, a single file's family, where and in what it runs."""
MODEL_FILES = ("source", "image_encoder")
"""Those of a model that may be a file or a folder."""
PIPELINE: Mapping[str, Any] = {
    "prompt": "",
    "negative_prompt": None,
    "seed": 0,
    "guidance": None,
    "steps": None,
    "size": None,
}
"""Of the pipeline's call, with what they are where not given; None: the model's own default."""
FILES = ("picture", "adapter", "mask", "faces")
"""The options of patches that may name files."""
ENCODING = ("negative", "combine", "crop", "faces", "noise")
"""The options that say how an image prompt's pictures become tokens."""
SOURCES = ("adapter", "picture", *ENCODING)
"""The options that make an image prompt's tensors."""
FACE_PACK = "antelopev2"
"""What finds faces, where a study does not say it."""

_OF_PROMPTS = ("adapter", "picture", "negative", "combine", "crop")
_OF_FACES = ("adapter", "picture", "faces", "noise", "combine")
_FOR_ALL = ("on",)
KINDS: dict[str, type[Patch]] = {
    kind.__name__: kind
    for kind in (
        HyperTile,
        Identity,
        ImagePrompt,
        NearSightedAttention,
        NearSightedTile,
        PerturbedAttentionGuidance,
        SelfAttentionGuidance,
        SlothfulAttention,
        SmoothedEnergyGuidance,
        TokenMerging,
    )
}
"""The patches that a table can make. Others come as values, or saved in a file."""


def pipeline_default(name: str) -> Any:
    """Return what an argument of the pipeline is where it is not given."""
    if name not in PIPELINE:
        raise unknown_name("pipeline", name, PIPELINE)
    return PIPELINE[name]


def kind_of(spec: Mapping[str, Any], where: str) -> type[Patch]:
    """Return the class of the patch that a table makes.

    Raises
    ------
    ValueError
        For an unknown one, with the nearest that there is.
    """
    if "patch" in spec:
        if not isinstance(spec["patch"], Patch):
            raise ValueError(f"{where}.patch: expected a patch, got {spec['patch']!r}")
        return type(spec["patch"])
    name = spec.get("kind")
    if name not in KINDS and name in {kind.__name__ for kind in Patch.types.values()}:
        raise ValueError(
            f"{where}.kind: expected one of {', '.join(sorted(KINDS))}, got {name}, which is a "
            "value in Python, or saved in a file"
        )
    if name not in KINDS:
        raise unknown_name(f"{where}.kind", name, KINDS)
    return KINDS[name]


def patch_options(kind: type[Patch], *, made: bool) -> tuple[str, ...]:
    """Return the parameters of a kind of patch; `made`: of a patch that is there already."""
    if issubclass(kind, ImagePrompt):
        sources = () if made else (_OF_FACES if issubclass(kind, Identity) else _OF_PROMPTS)
        own = inspect.signature(ImagePrompt.__init__).parameters
        plain = tuple(own)[3:]  # after self, adapter and embeds
        names = tuple(name for name in plain if name != "roles")
        return (*sources, *names, "preset", "curve", "window", *_FOR_ALL)
    names = tuple(f.name for f in getattr(kind, "__dataclass_fields__", {}).values() if f.init)
    more = ("window",) if {"start", "end"} <= set(names) else ()
    return (*names, *more, *(("curve",) if issubclass(kind, Guidance) else ()), *_FOR_ALL)


def is_none(spec: Mapping[str, Any], option: str) -> bool:
    """Whether an option is None where a patch's table does not name it."""
    if option in ("window", "preset", "curve"):
        return True
    default = _parameters(kind_of(spec, "patch")).get(option)
    return "patch" not in spec and default is not None and default.default is None


def check_types(kind: type[Patch], options: Mapping[str, Any]) -> None:
    """Check options that are true or false: Python would take any value for one of these."""
    for name, parameter in _parameters(kind).items():
        if name in options and parameter.annotation in (bool, "bool"):
            boolean(name, options[name])


def _parameters(kind: type[Patch]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(
        ImagePrompt.__init__ if issubclass(kind, ImagePrompt) else kind.__init__
    ).parameters


def changed(patch: Patch, options: Mapping[str, Any]) -> Patch:
    """Return a patch with other options."""
    value: Any = patch
    if isinstance(patch, ImagePrompt):
        return patch.replace(**options)
    return dataclasses.replace(value, **options)


def options_of(kind: type[Patch], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a patch's own options from those of a table: weight with preset and curve, a window.

    Raises
    ------
    ValueError
        Where two of them say the same thing.
    """
    options = {k: v for k, v in spec.items() if k not in ("kind", "patch", "on")}
    window = options.pop("window", None)
    if window is not None:
        both = {"start", "end"} & options.keys()
        if both or not isinstance(window, tuple) or len(window) != 2:
            raise ValueError(
                f"window: expected [start, end] in place of start and end, got {window!r}"
                + (f" beside {', '.join(sorted(both))}" if both else "")
            )
        options["start"], options["end"] = window
    name = "scale" if issubclass(kind, Guidance) else "weight"
    layers, curve = options.pop("preset", None), options.pop("curve", None)
    if layers is not None or curve is not None:
        options[name] = _weight(name, options.get(name, 1.0), layers, curve)
    elif isinstance(options.get(name), Table):
        options[name] = Weight.of(_by_layer(options[name]))
    return options


def _weight(name: str, scale: object, layers: object, curve: object) -> Weight:
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise ValueError(
            f"{name}: expected a number beside preset and curve, got {scale!r}; write layers as "
            "the preset, such as '3:1.0, 6:0.5'"
        )
    if not (layers is None or isinstance(layers, str | Table | tuple)):
        raise TypeError(f"preset: expected a name, or weights of layers, got {layers!r}")
    if isinstance(layers, Table):
        layers = _by_layer(layers)
    points = () if curve is None else curve
    if not isinstance(points, tuple) or not all(
        isinstance(p, tuple) and len(p) == 2 for p in points
    ):
        raise ValueError(f"curve: expected points [progress, factor], got {curve!r}")
    return Weight(scale, "linear" if layers is None else layers, points)


def _by_layer(layers: Mapping[str, Any]) -> dict[Any, Any]:
    """Give a table's layers: TOML has no keys but texts, so that numbers are read from these."""
    if layers and all(name.isdecimal() for name in layers):
        return {int(name): value for name, value in layers.items()}
    return {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in layers.items()
    }
