# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What all patches that reduce tokens have in common."""

from __future__ import annotations

import functools
import logging
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor

from attnpatch._core import Layer, LayerTable
from attnpatch.engine.edits import Edits
from attnpatch.engine.patch import BoundPatch, Patch
from attnpatch.engine.site import Call, SamplingPoint, Site
from attnpatch.engine.tokens import IMAGE
from attnpatch.patches.token_reduction.parameters import checked
from attnpatch.patches.token_reduction.stage import Plan, ReductionWrapper

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PACK", "CallKey", "Place", "TokenReduction", "draw", "time_ratio"]

logger = logging.getLogger("attnpatch")

_LAST_TIMESTEP = 999.0
_SD1_HEADS = 8
PACK = "comfyui_slothful_attention"
"""The node pack that these patches can imitate, by its repository's name."""


class Place(NamedTuple):
    """Where a layer stands, as far as reductions depend on it."""

    layer: Layer
    depth: int
    """Its channels over the model's: 1, 2, 4."""
    rate: float
    """1 at the depth of the model's first attention, half of that at twice the depth.

    With ``compat`` and heads known: 1 over the depth where there are eight, else 2.
    """
    before: tuple[tuple[int, int], ...]
    """Depth and level of the layers that run before it."""

    def deeper_than(self, levels: int) -> str | None:
        """Say so where a layer is deeper than the first `levels` widths that attend."""
        if self.rate > 0.5**levels:
            return None
        return f"it is at depth {self.depth}, deeper than asked for"


class CallKey(NamedTuple):
    """The call of the UNet, as far as reductions depend on it."""

    timestep: float
    """0 to 999; 0 where the patch is not ``time_dependent``."""
    latent: tuple[int, int]


@dataclass(frozen=True, kw_only=True, repr=False)
class TokenReduction(Patch):
    """A patch that gives self-attention fewer keys and values.

    Subclasses declare their parameters by ``parameters.number`` and its relatives.
    """

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, checked(f, getattr(self, f.name)))

    @property
    def time_dependent(self) -> bool:
        """Whether what it does depends on the timestep."""
        return True

    @property
    def imitates(self) -> bool:
        """Whether it does as another program does where that errs; see ``compat``."""
        return getattr(self, "compat", None) is not None

    @property
    def reduces_inputs(self) -> bool:
        """Whether keys and values are projected from fewer tokens; else they are reduced after."""
        return True

    def skips(self, place: Place) -> str | None:
        """Say why it never acts at a layer; None where it may act."""
        return None

    @abstractmethod
    def plan(self, place: Place, call_key: CallKey, grid: tuple[int, int]) -> Plan | None:
        """Give what it does on a token grid of a layer; None: nothing."""

    def bind(self, table: LayerTable, index: int = 0) -> BoundTokenReduction:
        """Fit it to a UNet; see ``Patch.bind``."""
        return BoundTokenReduction(self, table)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything it is: plain values for JSON, and no tensors."""
        return {f.name: getattr(self, f.name) for f in fields(self)}, {}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Make it again from what ``state`` gave."""
        options = dict(values)
        if options.pop("reference_quirks", False):  # in files of version 0.1
            options["compat"] = PACK
        return cls(**options)

    def __repr__(self) -> str:
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        parts = ", ".join(f"{name}={getattr(self, name)!r}" for name in changed)
        return f"{type(self).__name__}({parts})"


class BoundTokenReduction(BoundPatch):
    """A reduction of tokens fitted to one UNet."""

    keys: ClassVar[str] = IMAGE
    tells_roles_apart = False

    def __init__(self, patch: TokenReduction, table: LayerTable) -> None:
        self.patch = patch
        self.reduces = patch.reduces_inputs
        self._places = _places(table, patch.imitates)
        self._skipped = tuple(patch.skips(place) for place in self._places)
        self._warned = False

    @property
    def skipped(self) -> tuple[str | None, ...]:
        """For each layer why the patch never acts there; None where it may act."""
        return self._skipped

    def time_key(self, call: Call) -> CallKey | None:
        """Tell the timestep and the latent's shape, which decides on the grids.

        None where rows are at different times: they would have different numbers of tokens.
        """
        timesteps = {self._timestep(point) for point in call.points}
        if len(timesteps) == 1:
            return CallKey(timesteps.pop(), call.latent)
        self._warn_once(
            f"{type(self.patch).__name__}: rows of one call are at different times, where it gives "
            "them different numbers of tokens; there it leaves them alone"
        )
        return None

    def edits(self, call: Call, time_key: CallKey) -> Edits:
        """Return its part around the attention of each layer where it acts."""
        wrappers = {}
        for place, reason in zip(self._places, self._skipped, strict=True):
            if reason is None:
                make = functools.partial(self.patch.plan, place, time_key)
                wrapper = ReductionWrapper(make, call.grid(place.layer), self._warn)
                if wrapper.acts:
                    wrappers[place.layer.index] = wrapper
        return Edits(wrappers=wrappers)

    def _warn(self, site: Site, tokens: int) -> None:
        """Say that there are other tokens than those of the grid."""
        height, width = site.grid
        self._warn_once(
            f"{type(self.patch).__name__}: expected {height} × {width} tokens at "
            f"{site.layer.name}, got {tokens}, which another patch has merged or cut, or the host "
            "has resized without saying so; there it leaves them alone"
        )

    def _warn_once(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(message)

    def _timestep(self, point: SamplingPoint) -> float:
        """Give the timestep, 0 to 999, as the schedule of Stable Diffusion counts.

        By progress where that is known: some samplers' timesteps are no count of steps.
        """
        if not self.patch.time_dependent:
            return 0.0
        if point.progress is None or (self.patch.imitates and point.timestep is not None):
            if point.timestep is None:
                raise ValueError(
                    f"progress: {type(self.patch).__name__} needs it or the timestep, and the host "
                    "gave neither"
                )
            return point.timestep
        return (1.0 - point.progress) * _LAST_TIMESTEP


def time_ratio(peak_time: float, time_decay: float, timestep: float) -> float:
    """How strong a reduction is at a timestep: 1 at its peak, less before and after."""
    if time_decay <= 0:
        return 1.0
    time = min(max(1.0 - timestep / 1000.0, 0.0), 1.0)
    return math.exp(-(((time - peak_time) * time_decay) ** 2))


def draw(seed: int, call_key: CallKey, place: Place) -> Random:
    """Make a source of random numbers, the same for the same seed, timestep and layer."""
    # Timesteps that hosts find in different ways differ in their last digits.
    return Random(f"{seed} {round(call_key.timestep)} {place.layer.index}")


def _places(table: LayerTable, imitates: bool) -> tuple[Place, ...]:
    first = min(table, key=lambda layer: layer.level)
    model_channels = max(1, first.channels >> first.level)
    depths = [max(1, layer.channels // model_channels) for layer in table]
    forward = sorted(table, key=lambda layer: (layer.spatial, layer.transformer))
    order = [(depths[layer.index], layer.level) for layer in forward]
    ranks = {layer.index: rank for rank, layer in enumerate(forward)}
    tops = [depths[first.index]] * len(depths)
    if imitates and table.heads:
        tops = [1 if heads == _SD1_HEADS else 2 for heads in table.heads]  # anything else is "XL"
    return tuple(
        Place(layer, depth, top / depth, tuple(order[: ranks[layer.index]]))
        for layer, depth, top in zip(table, depths, tops, strict=True)
    )
