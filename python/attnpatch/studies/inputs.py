# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a study names outside of itself, opened before a model is loaded: files, and encoders' ways.

Each value goes to the very function that will take it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path

import numpy as np
import torch

from attnpatch.adapters.encode import Crop, check_negative, preprocess
from attnpatch.adapters.identity import noise_like
from attnpatch.adapters.tokens import check_combine
from attnpatch.faces.files import find_face_files
from attnpatch.patches import Identity, ImagePrompt
from attnpatch.pictures import read_picture
from attnpatch.studies.files import found, is_hub_id, there
from attnpatch.studies.masks import read_mask
from attnpatch.studies.models import FASHION, Takes
from attnpatch.studies.names import unknown_name
from attnpatch.studies.options import ENCODING, FACE_PACK, kind_of
from attnpatch.studies.table import Table
from attnpatch.studies.values import real, text

__all__ = ["Inputs", "check_model"]

# What may be said of the model in the package.
_OF_FASHION = {"image_encoder": None, "family": None, "dtype": "float32"}
_OWN = FASHION.partition("/")[0] + "/"  # names of the package's own, which no hub has
_ADAPTER = ("source", "subfolder", "weight_name", "kind", "which", "revision")


def check_model(model: Table, folder: Path) -> None:
    """Check that what a model is read from is there, or may be an ID of the hub.

    Raises
    ------
    ValueError
        Naming the parameter.
    """
    if model["source"] == FASHION:
        for name, only in _OF_FASHION.items():
            if model.get(name) not in (None, only):
                expected = "none" if only is None else f"none or {only!r}"
                raise ValueError(
                    f"model.{name}: expected {expected} for {FASHION}, got {model[name]!r}"
                )
    else:
        if model["source"].startswith(_OWN) and not there(model["source"], folder):
            raise unknown_name("model.source", model["source"], (FASHION,))
        path = _weights("model.source", model["source"], folder)
        if path.is_dir() and not (path / "model_index.json").is_file():
            raise ValueError(
                "model.source: expected a folder with a model_index.json, as diffusers saves "
                f"pipelines, got {model['source']!r}"
            )
    if model.get("image_encoder") is not None:
        _weights("model.image_encoder", model["image_encoder"], folder)


def _weights(where: str, name: str, folder: Path) -> Path:
    if not there(name, folder) and not is_hub_id(name):
        raise ValueError(
            f"{where}: expected a file or a folder that is there, or an ID of the hub such as "
            f"'owner/name', got {name!r}"
        )
    return folder / name


class Inputs:
    """Opens what image prompts name, each once.

    Parameters
    ----------
    takes
        What the model knows by name.
    folder
        Where relative paths start.
    """

    def __init__(self, takes: Takes, folder: Path) -> None:
        self._takes, self._folder = takes, folder
        self._seen: set[Hashable] = set()

    def check(self, spec: Table) -> None:
        """Check the files and the encoder's options of a patch's table.

        Raises
        ------
        OSError, TypeError, ValueError
            Naming the option.
        """
        kind = kind_of(spec, "patch")
        if not issubclass(kind, ImagePrompt):
            return
        if "patch" not in spec:
            for name in ("adapter", "picture"):
                if spec.get(name) is None:
                    raise ValueError(f"{name}: expected one, got none")
            self._once(self._adapter, spec["adapter"])
            self._pictures(spec["picture"])
            self._options(kind, spec)
        if spec.get("mask") is not None:
            self._once(self._mask, spec["mask"])

    def _once(self, check: Callable[..., None], value: Hashable) -> None:
        if (check.__name__, value) not in self._seen:
            check(value)
            self._seen.add((check.__name__, value))

    def _pictures(self, value: object) -> None:
        several = value if isinstance(value, tuple) else (value,)
        if not several:
            raise ValueError("picture: expected a file, or several, got an empty list")
        for one in several:
            self._once(self._picture, one)

    def _picture(self, value: object) -> None:
        name = _file("picture", value)
        if self._takes.picture(name) is None:
            self._require("picture", name)
            read_picture(self._folder / name, "picture")

    def _mask(self, value: object) -> None:
        if not isinstance(value, tuple):
            self._require("mask", _file("mask", value))
        read_mask(value, self._folder)

    def _require(self, where: str, name: str) -> None:
        if not (self._folder / name).is_file():
            raise ValueError(f"{where}: expected a file that is there, got {name!r}")

    def _adapter(self, value: object) -> None:
        table = value if isinstance(value, Table) else Table(source=value)
        for name in table:
            if name not in _ADAPTER:
                raise unknown_name("adapter", name, _ADAPTER)
        source = _file("adapter", table.get("source"))
        if self._takes.own_adapter(source) is not None:
            return
        inside = [
            text(f"adapter.{key}", table.get(key, "")) for key in ("subfolder", "weight_name")
        ]
        if there(source, self._folder):
            if not self._folder.joinpath(source, *inside).exists():
                missing = "/".join(filter(None, (source, *inside)))
                raise ValueError(f"adapter: expected a file that is there, got {missing!r}")
        elif not (is_hub_id(source) and inside[1]):
            raise ValueError(
                "adapter: expected a file that is there, a folder with one, or an ID of the hub "
                f"with its weight_name, got {source!r}"
            )

    def _options(self, kind: type[ImagePrompt], spec: Table) -> None:
        face = issubclass(kind, Identity)
        for name in ENCODING:
            if name not in spec:
                continue
            if not face and name not in self._takes.options:
                raise ValueError(
                    f"{name}: expected none, which the model's encoder does not take, got "
                    f"{spec[name]!r}"
                )
            if name != "faces":
                _CHECKS[name](spec[name])
        if face:
            self._once(self._faces, spec.get("faces", FACE_PACK))

    def _faces(self, value: object) -> None:
        name = _file("faces", value)
        try:
            find_face_files(found(name, self._folder))
        except FileNotFoundError as error:
            raise ValueError(f"faces: {error}") from None


def _file(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{where}: expected a file, got {value!r}")
    if not value:
        raise ValueError(f"{where}: expected a file that is there, got ''")
    return value


def _crop(value: Crop) -> None:
    preprocess(np.zeros((1, 1, 3), np.uint8), 1, crop=value)


def _noise(value: object) -> None:
    noise_like(torch.zeros(1), real("noise", value))


_CHECKS: Mapping[str, Callable[..., object]] = {
    "negative": check_negative,
    "combine": check_combine,
    "crop": _crop,
    "noise": _noise,
}
