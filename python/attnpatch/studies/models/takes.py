# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What models take, as far as it is known before they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from attnpatch.demo import store
from attnpatch.demo.items import CLASS_NAMES, IMAGE_SIZE, Split, to_pixels
from attnpatch.demo.model import NULL_CLASS
from attnpatch.pictures import Pixels
from attnpatch.studies.cells import Cell
from attnpatch.studies.names import unknown_name

__all__ = ["FASHION", "FashionTakes", "PipelineTakes", "Takes", "takes_of"]

FASHION = "attnpatch/fashion"
"""The name of the small model in the package."""


class Takes(Protocol):
    """What a model knows by name, and what it does not take.

    Attributes
    ----------
    options : tuple of str
        The options of image prompts that say how its encoder reads their pictures.
    """

    options: tuple[str, ...]

    def picture(self, name: str) -> Pixels | None:
        """Return a picture that the model itself knows by name; None: it is a file.

        Raises
        ------
        ValueError
            For a name of its own that no picture has.
        """
        ...

    def own_adapter(self, name: str) -> Path | None:
        """Return the file of an adapter that the model knows by name; None: it is a file."""
        ...

    def check(self, cell: Cell) -> None:
        """Raise ValueError for an argument of the pipeline that the model does not take."""
        ...


class FashionTakes:
    """What the model in the package takes: ``"attnpatch/fashion:7"`` is its test item 7."""

    options: tuple[str, ...] = ("combine",)
    _items: Split | None = None

    def picture(self, name: str) -> Pixels | None:
        """Return a test item of the package; None for other names."""
        model, _, item = name.partition(":")
        if model != FASHION:
            return None
        if self._items is None:
            self._items = store.load_references()
        if not item.isdecimal() or int(item) >= len(self._items):
            last = len(self._items) - 1
            raise ValueError(f"picture: expected {FASHION}:0 to {FASHION}:{last}, got {name!r}")
        place = int(item)
        pixels = to_pixels(self._items.images[place : place + 1])[0, 0]
        return ((pixels + 1.0) * 127.5).round().byte().numpy()

    def own_adapter(self, name: str) -> Path | None:
        """Return the adapter in the package for the model's name."""
        return store.SHIPPED / store.ADAPTER_FILE if name == FASHION else None

    def check(self, cell: Cell) -> None:
        """Raise ValueError for another size or prompt, and for a negative prompt."""
        size = cell.argument("size")
        if size not in (None, IMAGE_SIZE, (IMAGE_SIZE, IMAGE_SIZE)):
            raise ValueError(f"size: expected {IMAGE_SIZE}, got {size}")
        if cell.argument("negative_prompt") is not None:
            raise ValueError(
                f"negative_prompt: expected none, which {FASHION} does not take, got "
                f"{cell.argument('negative_prompt')!r}"
            )
        self.class_of(cell)

    @staticmethod
    def class_of(cell: Cell) -> int:
        """Return the number of the class that a cell's prompt names."""
        prompt = cell.argument("prompt")
        if prompt == "":
            return NULL_CLASS
        if prompt not in CLASS_NAMES:
            raise unknown_name("prompt", prompt, ("", *CLASS_NAMES))
        return CLASS_NAMES.index(prompt)


class PipelineTakes:
    """What any pipeline of diffusers takes: names are those of files."""

    options: tuple[str, ...] = ("negative", "combine", "crop")

    def picture(self, name: str) -> Pixels | None:
        """Return None: pictures are files."""
        del name
        return None

    def own_adapter(self, name: str) -> Path | None:
        """Return None: adapters are files."""
        del name
        return None

    def check(self, cell: Cell) -> None:
        """Nothing is known before the pipeline is loaded."""


def takes_of(source: str) -> Takes:
    """Return what is known of a model by its name alone."""
    return FashionTakes() if source == FASHION else PipelineTakes()
