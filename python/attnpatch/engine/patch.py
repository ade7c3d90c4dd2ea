# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What every kind of patch has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from attnpatch._core import Layer, LayerTable
from attnpatch.engine.masks import MaskPyramid
from attnpatch.engine.site import Call
from attnpatch.engine.wrappers import AttentionWrapper

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BoundPatch", "Branch", "Patch"]


class Patch(ABC):
    """An immutable value that says what attention layers compute besides their text.

    Nothing about a running step is stored in a patch. ``bind`` makes the object that works with one
    model; it may hold caches. Hosts may share or deep-copy patches between a model and its clones:
    a copy is the patch itself.
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[Patch]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            Patch.kinds[cls.kind] = cls

    @abstractmethod
    def bind(self, table: LayerTable) -> BoundPatch:
        """Fit the patch to a UNet.

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
    def pictures(self) -> int:
        """How many pictures of a batch it tells apart; 1: all get the same."""
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


class BoundPatch(ABC):
    """A patch fitted to one UNet. Used from several threads: its caches must be safe for that."""

    attention: ClassVar[str] = "cross"
    """Which attention it acts on: "cross" (attn2, by ``branches``) or "self" (attn1, ``stage``)."""
    reduces: bool = False
    """Whether its stages may reduce what keys and values are projected from."""
    time_dependent: bool = True
    """Whether what it does depends on the call's progress, sigma or timestep."""
    tells_roles_apart: bool = True
    """Whether rows of different kinds (cond, uncond) get different things."""
    place: int = 0
    """Of its patch in the stack; the run says it."""

    @property
    @abstractmethod
    def skipped(self) -> Sequence[str | None]:
        """For each layer why the patch never acts there; None where it may act."""

    @abstractmethod
    def phase(self, call: Call) -> Hashable | None:
        """Tell what of the call's time matters: equal phases compute the same. None: inactive."""

    def branches(self, call: Call, phase: Any) -> Sequence[Branch]:
        """Image branches in calls of this layout and phase."""
        return ()

    def stage(self, layer: Layer, call: Call, phase: Any) -> AttentionWrapper | None:
        """Its part of a layer's self-attention in calls of this layout and phase; None: nothing."""
        return None


class Branch(Protocol):
    """One image branch in calls of one layout and phase, over all layers."""

    shared_softmax: bool
    """Whether it shares the text's softmax."""
    rows: tuple[int, ...]
    """For each row of the batch the row of the keys that serves it; -1: none."""
    mask: MaskPyramid | None
    """Which tokens it reaches; None: all."""
    mask_rows: tuple[int, ...]
    """For each row of the batch the picture of the mask."""
    requires_grad: bool
    """Whether keys, values or mask do: then they are made anew at each call."""

    def weights(self, layer: int) -> tuple[float, ...] | None:
        """For each row of the batch the factor of the branch's output; None: not at this layer."""

    def keys_values(
        self, layer: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (rows, tokens, channels) of the layer."""
