# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What all patches have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from attnpatch.engine.edits import Edits
from attnpatch.engine.site import Call
from attnpatch.engine.tokens import TEXT
from attnpatch.shown import Shown

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BoundPatch", "NegativeText", "Patch", "nbytes_of", "patch_of"]


class Patch(Shown, ABC):
    """An immutable value that says what attention layers compute besides their text.

    Nothing about a running step is stored in a patch. ``bind`` makes the object that works with one
    model; it may hold caches. Hosts may share or deep-copy patches between a model and its clones:
    a copy is the patch itself.
    """

    _shown_by = "patch"
    type_name: ClassVar[str]
    types: ClassVar[dict[str, type[Patch]]] = {}
    joint: ClassVar[bool] = False
    """Whether it acts in joint attention as well, where text and image are one sequence."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "type_name" in cls.__dict__:
            Patch.types[cls.type_name] = cls

    @abstractmethod
    def bind(self, table: Any, index: int = 0) -> BoundPatch:
        """Fit the patch to a model.

        Parameters
        ----------
        table : LayerTable or JointTable
            The model's layers; the second only where ``joint`` says so.
        index : int
            Place of the patch in its stack; what ``Call.degraded`` says of a guidance's rows.

        Raises
        ------
        ValueError
            Where they do not fit, naming both.
        """

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Everything the patch is: plain values for JSON, and tensors."""

    @classmethod
    @abstractmethod
    def from_state(cls, values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Self:
        """Make the patch again from what ``state`` gave."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.state()[1].values())

    @property
    def samples(self) -> int:
        """How many samples of a batch it tells apart; 1: all get the same."""
        return 1

    @property
    def requires_grad(self) -> bool:
        """Whether any of its tensors does."""
        return False

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, self.state()


def patch_of(kind: object, values: Any, tensors: Mapping[str, torch.Tensor]) -> Patch:
    """Return the patch again, of the kind of this name, from what ``state`` gave.

    Raises
    ------
    ValueError
        For unknown kinds, and for what is not the state of one.
    """
    patch_type = Patch.types.get(kind) if isinstance(kind, str) else None
    if patch_type is None:
        known = ", ".join(sorted(Patch.types))
        raise ValueError(f"unknown kind of patch {kind!r}; known: {known}")
    try:
        return patch_type.from_state(values, tensors)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"expected the state of {kind!r}, got {values!r} and the tensors "
            f"{', '.join(tensors) or 'none'}: {type(error).__name__}: {error}"
        ) from error


def nbytes_of(patches: Iterable[Patch]) -> int:
    """Bytes of the patches' tensors; shared ones count once."""
    tensors = {id(t): t for patch in patches for t in patch.state()[1].values()}
    return sum(tensor.nbytes for tensor in tensors.values())


@dataclass(frozen=True, eq=False)
class NegativeText:
    """A text that some rows of a call have beside their own.

    Parameters
    ----------
    rows : tuple of int
        The rows of the batch that have it, in order.
    text : Tensor
        For each of these rows, (rows, tokens, channels), as the model is given text.
    mask : Tensor or None
        bool (rows, tokens): which tokens are its own; None: all.
    always : bool
        Whether such rows have it throughout sampling.
    """

    rows: tuple[int, ...]
    text: torch.Tensor
    mask: torch.Tensor | None = None
    always: bool = True


class BoundPatch(ABC):
    """A patch fitted to one model. Used from several threads: its caches must be safe for that."""

    keys: ClassVar[str] = TEXT
    """The span of keys beside which it acts: at layers whose keys hold no such span it does not."""
    reduces: bool = False
    """Whether its wrappers may reduce what keys and values are projected from."""
    guides_text: bool = False
    """Whether it may need keys and values that the layers project from a text of its own."""
    context_channels: int | None = None
    """How many channels that text has; None: it has none."""
    time_dependent: bool = True
    """Whether what it does depends on the call's progress, sigma or timestep."""
    tells_roles_apart: bool = True
    """Whether rows of different roles (cond, uncond) get different things."""
    asks_repeats: bool = False
    """Whether it matters to it how often a host has repeated a text, where the host tells."""
    names_words: bool = False
    """Whether it is for some tokens of the text: a host that repeats it and does not tell is found
    out."""

    def negative_text(self, call: Call) -> NegativeText | None:
        """Return a text that rows of a call with joint attention are to have beside their own.

        The host adds rows that have it, and names them in ``Call.negatives``. None: no text.
        """
        del call
        return None

    @property
    @abstractmethod
    def skipped(self) -> Sequence[str | None]:
        """For each layer why the patch never acts there; None where it may act."""

    @abstractmethod
    def time_key(self, call: Call) -> Hashable | None:
        """Tell what of the call's time matters: equal keys compute the same. None: inactive."""

    @abstractmethod
    def edits(self, call: Call, time_key: Any) -> Edits:
        """Return what it does in calls of this layout and time."""
