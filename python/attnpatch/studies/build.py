# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Patches of a cell's tables: adapters are read, pictures encoded and keys projected once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from attnpatch.adapters import ImageAdapter, load_image_adapter
from attnpatch.engine import Patch
from attnpatch.patches import Identity, ImagePrompt
from attnpatch.pictures import Pixels, read_picture
from attnpatch.studies.cells import Cell
from attnpatch.studies.files import found
from attnpatch.studies.masks import read_mask
from attnpatch.studies.models.model import Model
from attnpatch.studies.names import under
from attnpatch.studies.options import FACE_PACK, SOURCES, changed, kind_of, options_of
from attnpatch.studies.table import Table

__all__ = ["PatchMaker", "SharedPatches", "read_adapter"]


Prompt = tuple[ImagePrompt, str]
"""An image prompt, and the SHA-256 of its adapter's tensors."""


class SharedPatches(Protocol):
    """Patches that several workers share, by a key that prints the same in all of them."""

    def get(self, key: object) -> Prompt | None:
        """Return one; None: it is not there."""
        ...

    def put(self, key: object, value: Prompt) -> None:
        """Keep one for the others."""
        ...


class PatchMaker:
    """Makes the patches of cells, for one model.

    Parameters
    ----------
    model
        Reads adapters and encodes pictures.
    shared
        What others encoded; None: there are no others.
    """

    def __init__(self, model: Model, shared: SharedPatches | None = None) -> None:
        self._model = model
        self._shared = shared
        self._adapters: dict[Hashable, ImageAdapter] = {}
        self._prompts: dict[Hashable, Prompt] = {}
        self._masks: dict[Hashable, Tensor] = {}

    def patches(self, cell: Cell) -> list[Patch]:
        """Return a cell's patches, in the study's order."""
        return [self.patch(spec, cell.folder) for spec in cell.patches.values()]

    def patch(self, spec: Table, folder: Path) -> Patch:
        """Return the patch of a table."""
        kind = kind_of(spec, "patch")
        options = options_of(kind, spec)
        made = spec.get("patch")
        if not issubclass(kind, ImagePrompt):
            if made is None:
                return kind(**options)
            return changed(made, options) if options else made
        if "mask" in options:
            options["mask"] = self._mask(options["mask"], folder)
        if made is None:
            sources = Table({k: options.pop(k) for k in SOURCES if k in options})
            made, _ = self._prompt(kind, sources, folder)
        assert isinstance(made, ImagePrompt)
        return made.replace(**_settled(options)) if options else made

    def adapters(self, cell: Cell) -> dict[str, str]:
        """Return by the patch's name the SHA-256 of the tensors of a cell's adapters."""
        digests = {}
        for name, spec in cell.patches.items():
            if "adapter" in spec:
                kind = kind_of(spec, name)
                assert issubclass(kind, ImagePrompt)
                options = options_of(kind, spec)
                sources = Table({k: options[k] for k in SOURCES if k in options})
                digests[name] = self._prompt(kind, sources, cell.folder)[1]
        return digests

    def reference(self, cell: Cell) -> Pixels | None:
        """Return the first picture that a cell's patches show; None: there is none."""
        for spec in cell.patches.values():
            picture = spec.get("picture")
            if picture is not None:
                return self._picture(
                    picture[0] if isinstance(picture, tuple) else picture, cell.folder
                )
        return None

    def _prompt(self, kind: type[ImagePrompt], sources: Table, folder: Path) -> Prompt:
        key = (kind, sources, folder)
        if key not in self._prompts and self._shared is not None:
            # Folders may lie elsewhere on another machine.
            others = self._shared.get((kind.__name__, sources))
            if others is not None:
                self._prompts[key] = others
        if key not in self._prompts:
            adapter = self.adapter(sources["adapter"], folder)
            given = sources["picture"]
            several = given if isinstance(given, tuple) else (given,)
            pictures = [self._picture(one, folder) for one in several]
            options = dict(sources.without("adapter", "picture"))
            if issubclass(kind, Identity):
                made = _identity(adapter, pictures, options, folder)
            else:
                made = ImagePrompt(adapter, self._model.encode(adapter, pictures, options))
            self._prompts[key] = made, adapter.digest
            if self._shared is not None:
                self._shared.put((kind.__name__, sources), self._prompts[key])
        return self._prompts[key]

    def adapter(self, source: str | Table, folder: Path) -> ImageAdapter:
        """Return an adapter, read once."""
        key = (source, folder)
        if key not in self._adapters:
            self._adapters[key] = read_adapter(source, folder, self._model.adapter)
        return self._adapters[key]

    def _picture(self, name: str, folder: Path) -> Pixels:
        own = self._model.picture(name)
        return read_picture(found(name, folder), "picture") if own is None else own

    def _mask(self, mask: Hashable, folder: Path) -> Tensor | None:
        if mask is None:
            return None
        key = (mask, folder)
        if key not in self._masks:
            self._masks[key] = read_mask(mask, folder)
        return self._masks[key]


def read_adapter(
    source: str | Table,
    folder: Path,
    read: Callable[[str, Mapping[str, Any]], ImageAdapter] = lambda name, options: (
        load_image_adapter(name, **options)
    ),
) -> ImageAdapter:
    """Read the adapter that a study names, a file or a table, from its folder."""
    table = source if isinstance(source, Table) else Table(source=source)
    try:
        return read(found(table["source"], folder), table.without("source"))
    except (OSError, ValueError) as error:
        raise under("adapter", error) from error


def _settled(options: dict[str, Any]) -> dict[str, Any]:
    """Give what the constructor would make of options that depend on each other."""
    if "shared_softmax" in options and "scaling" not in options:
        return {"scaling": None, **options}
    return options


def _identity(
    adapter: ImageAdapter, pictures: list[Pixels], options: dict[str, Any], folder: Path
) -> ImagePrompt:
    from attnpatch.faces import FaceAnalysis

    analysis = FaceAnalysis(found(options.pop("faces", FACE_PACK), folder))
    faces: Any = [analysis.pick(picture)[0] for picture in pictures]
    return Identity(adapter, faces[0] if len(faces) == 1 else faces, **options)
