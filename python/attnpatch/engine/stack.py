# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Stacks of patches: values that add, compare, print, and go to a file and back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import Any, overload

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attnpatch._core import layer_table
from attnpatch.devices import check_device
from attnpatch.engine.bound_stack import BoundStack
from attnpatch.engine.joint_layers import Table
from attnpatch.engine.patch import Patch, nbytes_of, patch_of
from attnpatch.shown import Shown

__all__ = ["PatchStack"]

_FORMAT = "attnpatch.stack"
_VERSION = 1


class PatchStack(Shown, Sequence[Patch]):
    """Patches in order. Immutable: adding makes a new stack.

    Examples
    --------
    >>> stack = PatchStack([first])
    >>> stack = stack + second
    >>> run = stack.bind(layer_table("sdxl"))
    """

    __slots__ = ("_patches",)
    _shown_by = "stack"
    _patches: tuple[Patch, ...]

    def __init__(self, patches: Patch | Iterable[Patch] = ()) -> None:
        if not isinstance(patches, Patch | Iterable) or isinstance(patches, type):
            raise TypeError(f"patches: expected a patch or several, got {patches!r}")
        many = (patches,) if isinstance(patches, Patch) else tuple(patches)
        for patch in many:
            if not isinstance(patch, Patch):
                raise TypeError(f"patches: expected patches, got {type(patch).__name__}")
        object.__setattr__(self, "_patches", many)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"PatchStack is immutable: cannot set {name}")

    def bind(self, table: Table | str) -> BoundStack:
        """Fit the patches to a UNet: the object that works with one model.

        Parameters
        ----------
        table
            The model's layers, or "sd1", "sd2" or "sdxl".

        Raises
        ------
        ValueError
            Where a patch does not fit the UNet, naming both.
        """
        return BoundStack(self, layer_table(table) if isinstance(table, str) else table)

    def __add__(self, other: Patch | Iterable[Patch]) -> PatchStack:
        if not isinstance(other, Patch | Iterable):
            return NotImplemented
        return PatchStack((*self, *PatchStack(other)))

    def __radd__(self, other: Patch | Iterable[Patch]) -> PatchStack:
        if not isinstance(other, Patch | Iterable):
            return NotImplemented
        return PatchStack((*PatchStack(other), *self))

    def __len__(self) -> int:
        return len(self._patches)

    def __iter__(self) -> Iterator[Patch]:
        return iter(self._patches)

    @overload
    def __getitem__(self, index: int) -> Patch: ...
    @overload
    def __getitem__(self, index: slice) -> PatchStack: ...
    def __getitem__(self, index: int | slice) -> Patch | PatchStack:
        if isinstance(index, slice):
            return PatchStack(self._patches[index])
        return self._patches[index]

    def __eq__(self, other: object) -> bool:
        return self._patches == other._patches if isinstance(other, PatchStack) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._patches)

    def __copy__(self) -> PatchStack:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> PatchStack:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return PatchStack, (self._patches,)

    def __repr__(self) -> str:
        return f"PatchStack([{', '.join(map(repr, self._patches))}])"

    @property
    def nbytes(self) -> int:
        """Bytes of the patches' tensors; shared ones count once."""
        return nbytes_of(self._patches)

    def describe(self, table: Table | str | None = None) -> str:
        """Give a text for people: the patches, and what they find in a UNet if one is given."""
        lines = [f"{index}: {patch!r}" for index, patch in enumerate(self._patches)]
        if table is not None:
            lines.append(str(self.bind(table).report()))
        return "\n".join(lines) if lines else "no patches"

    def diff(self, other: PatchStack) -> str:
        """Say which patches the other stack has not, and which it has instead; "" if equal."""
        lines = [f"- {patch!r}" for patch in self if patch not in other._patches]
        lines += [f"+ {patch!r}" for patch in other if patch not in self._patches]
        if not lines and self != other:
            lines.append("the same patches in another order or number")
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the stack to one safetensors file; its metadata holds the rest as JSON."""
        tensors: dict[str, Tensor] = {}
        names: dict[int, str] = {}  # patches may share tensors; each is written once
        patches = []
        for index, patch in enumerate(self._patches):
            values, own = patch.state()
            stored = {}
            for name, tensor in own.items():
                full = names.setdefault(id(tensor), f"{index}.{name}")
                tensors[full] = tensor
                stored[name] = full
            patches.append({"kind": patch.type_name, "values": values, "tensors": stored})
        contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        text = json.dumps({"patches": patches}, allow_nan=False)
        metadata = {"format": _FORMAT, "version": str(_VERSION), "stack": text}
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        try:
            save_file(contiguous, partial, metadata)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "cpu") -> PatchStack:
        """Read what ``save`` wrote.

        Raises
        ------
        ValueError
            For a device that is not here, for other files and damaged ones, for a newer format,
            and for kinds of patches that are not known.
        """
        path = os.fspath(path)
        check_device(device, "device")
        try:
            return cls(_read(path, device))
        except (AttributeError, JSONDecodeError, KeyError, SafetensorError, TypeError) as error:
            raise ValueError(
                f"{path}: expected a file saved by PatchStack.save, got another or a damaged one: "
                f"{type(error).__name__}: {error}"
            ) from error


def _read(path: str | os.PathLike[str], device: str) -> list[Patch]:
    """Read the patches of a file."""
    with safe_open(path, framework="pt", device=device) as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"{path}: expected a file saved by PatchStack.save")
        if int(metadata["version"]) > _VERSION:
            raise ValueError(
                f"{path}: its format is version {metadata['version']}; "
                f"this attnpatch reads up to {_VERSION}"
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    patches = []
    for entry in json.loads(metadata["stack"])["patches"]:
        own = {name: tensors[full] for name, full in entry["tensors"].items()}
        kind, values = entry["kind"], entry["values"]
        try:
            patches.append(patch_of(kind, values, own))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return patches
