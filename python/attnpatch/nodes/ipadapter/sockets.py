# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What travels through the IPADAPTER sockets, in our form and in those of other packs."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnpatch.adapters import ImageAdapter, load_image_adapter

__all__ = ["AdapterDict", "Loaded", "load_adapter", "unpack"]

# Marks that other packs put beside the tensors, and the kind of adapter that each stands for.
_MARKS = {"faceidplusv2": "faceid_plus_v2", "portraitunnorm": "portrait_unnorm"}


class AdapterDict(dict[str, Any]):
    """An adapter as our loaders give it: a dict of tensors that nodes of other packs read too."""

    def __init__(self, adapter: ImageAdapter) -> None:
        super().__init__(adapter.state_dict())
        self.adapter = adapter
        self.update({mark: True for mark, kind in _MARKS.items() if kind == adapter.kind})

    def __deepcopy__(self, memo: object) -> AdapterDict:
        return self

    def __repr__(self) -> str:
        return f"AdapterDict({self.adapter!r})"


@dataclass(frozen=True)
class Loaded:
    """What an IPADAPTER input held: the adapter, and what a unified loader sent along."""

    adapter: ImageAdapter
    clip_vision: Any = None
    insightface: Any = None


_by_file: weakref.WeakValueDictionary[tuple[str, int, int, str | None], AdapterDict]
_by_file = weakref.WeakValueDictionary()
_foreign: list[tuple[Any, ImageAdapter]] = []  # the latest two from other packs' loaders


def load_adapter(path: Path, kind: str | None = None) -> AdapterDict:
    """Read an adapter's file; as long as anybody holds the result it is read once."""
    stat = path.stat()
    key = (str(path), stat.st_mtime_ns, stat.st_size, kind)
    adapter = _by_file.get(key)
    if adapter is None:
        adapter = _by_file[key] = AdapterDict(load_image_adapter(path, kind=kind))
    return adapter


def unpack(ipadapter: Any, clip_vision: Any = None, insightface: Any = None) -> Loaded:
    """Read an IPADAPTER input.

    Parameters
    ----------
    ipadapter
        Ours; an `ImageAdapter`; a dict with "image_proj" and "ip_adapter", as other packs' loaders
        give; or a unified loader's dict with "ipadapter" and "clipvision".
    clip_vision, insightface
        What the node's own inputs say; they come first.

    Raises
    ------
    TypeError, ValueError
        For anything else, naming what would fit.
    """
    if isinstance(ipadapter, Mapping) and "ipadapter" in ipadapter:
        model = _model_in(ipadapter, "ipadapter")
        if model is None:
            raise ValueError("ipadapter: its loader has not loaded an adapter")
        clip_vision = clip_vision if clip_vision is not None else _model_in(ipadapter, "clipvision")
        insightface = (
            insightface if insightface is not None else _model_in(ipadapter, "insightface")
        )
        ipadapter = model
    return Loaded(_read(ipadapter), clip_vision, insightface)


def _model_in(pipeline: Mapping[str, Any], name: str) -> Any:
    return (pipeline.get(name) or {}).get("model")


def _read(ipadapter: Any) -> ImageAdapter:
    if isinstance(ipadapter, AdapterDict):
        return ipadapter.adapter
    if isinstance(ipadapter, ImageAdapter):
        return ipadapter
    if not isinstance(ipadapter, Mapping) or not {"image_proj", "ip_adapter"} <= set(ipadapter):
        raise TypeError(
            f"ipadapter: expected the output of an IPAdapter loader, got {type(ipadapter).__name__}"
        )
    groups = {name: ipadapter[name] for name in ("image_proj", "ip_adapter")}
    for known, adapter in _foreign:
        if known is groups["ip_adapter"]:
            return adapter
    kind = next((kind for mark, kind in _MARKS.items() if ipadapter.get(mark)), None)
    adapter = load_image_adapter(groups, kind=kind)
    _foreign.append((groups["ip_adapter"], adapter))
    del _foreign[:-2]
    return adapter
