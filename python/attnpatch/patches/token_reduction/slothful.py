# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Slothful Attention: self-attention to fewer, pooled keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from attnpatch.patches.token_reduction import slothful_pack
from attnpatch.patches.token_reduction.parameters import choice, compat_with, number
from attnpatch.patches.token_reduction.patch import PACK, CallKey, Place, TokenReduction, time_ratio
from attnpatch.patches.token_reduction.pooling import MODES, Pooling, PoolPlan
from attnpatch.patches.token_reduction.stage import Grid, Plan

__all__ = ["Side", "SidedReduction", "SlothfulAttention"]

_MODE = "How tokens are pooled: along their row (1D) or on their grid (2D), mean or maximum."
_DECAY = "How much less deeper layers are reduced: the stride falls with this power of the depth."
_SLOTHFUL = "How many tokens become one, at the peak time and the first depth; 1 or less: none."
_K_BLEND = "Keys: 0 takes every n-th token as it is, 1 what the tokens around it pool to."
_V_BLEND = "Values: 0 takes every n-th token as it is, 1 what the tokens around it pool to."


class Side(NamedTuple):
    """The parameters that input and output blocks have each of their own."""

    mode: str
    depth_decay: float
    slothful: float
    k_blend: float
    v_blend: float

    @property
    def blends(self) -> tuple[float, float]:
        """Of keys and values."""
        return self.k_blend, self.v_blend

    def stride(self, place: Place, ratio: float = 1.0) -> float:
        """How many tokens become one at a layer."""
        return self.slothful * ratio * place.rate**self.depth_decay

    def pool(self, stride: float, grid: Grid) -> PoolPlan | None:
        """Give the plan for a grid that is not cut in tiles."""
        if stride <= 1:
            return None
        return PoolPlan(grid, Pooling.of(stride, stride, self.mode, self.blends, grid))


@dataclass(frozen=True, kw_only=True, repr=False)
class SidedReduction(TokenReduction):
    """A reduction that follows time, with parameters for input and for output blocks."""

    peak_time: float = number(
        0.4,
        0.0,
        1.0,
        0.1,
        "When the reduction is strongest: 0 at the start of sampling, 1 the end.",
    )
    time_decay: float = number(
        2.0, 0.0, 4.0, 0.5, "How fast it weakens away from that time; 0: it stays the same."
    )
    in_mode: str = choice("2D_AVG", MODES, f"Input blocks. {_MODE}")
    in_depth_decay: float = number(2.0, 0.0, 4.0, 0.5, f"Input blocks. {_DECAY}")
    in_slothful: float = number(6.0, 0.0, 50.0, 0.5, f"Input blocks. {_SLOTHFUL}")
    in_k_blend: float = number(0.0, 0.0, 1.0, 0.05, f"Input blocks. {_K_BLEND}")
    in_v_blend: float = number(0.0, 0.0, 1.0, 0.05, f"Input blocks. {_V_BLEND}")
    out_mode: str = choice("2D_AVG", MODES, f"Output blocks. {_MODE}")
    out_depth_decay: float = number(2.0, 0.0, 4.0, 0.5, f"Output blocks. {_DECAY}")
    out_slothful: float = number(4.0, 0.0, 50.0, 0.5, f"Output blocks. {_SLOTHFUL}")
    out_k_blend: float = number(0.0, 0.0, 1.0, 0.05, f"Output blocks. {_K_BLEND}")
    out_v_blend: float = number(0.0, 0.0, 1.0, 0.05, f"Output blocks. {_V_BLEND}")

    @property
    def time_dependent(self) -> bool:
        """Whether what it does depends on the timestep."""
        return self.time_decay > 0

    def ratio(self, call_key: CallKey) -> float:
        """How strong the reduction is now, 0 to 1."""
        return time_ratio(self.peak_time, self.time_decay, call_key.timestep)

    def side(self, block: str) -> Side:
        """Give the parameters for a block; the middle one counts as an input block."""
        name = "out" if block == "output" else "in"
        return Side(*(getattr(self, f"{name}_{part}") for part in Side._fields))


@dataclass(frozen=True, kw_only=True, repr=False)
class SlothfulAttention(SidedReduction):
    """Self-attention to fewer keys and values: every n-th token, or what n tokens pool to.

    The stride is slothful · r · rate^depth_decay, with r = exp(−((τ − peak_time) · time_decay)²)
    at time τ from 0 to 1, and a rate of 1 at the depth of the model's first attention, 1/2 at twice
    the depth. At or below 1 a layer stays as it is, and so does the middle block.

    Parameters
    ----------
    peak_time
        When the reduction is strongest, 0 to 1; 0.4 by default.
    time_decay
        How fast it weakens away from that, 0 to 4; 2.0. At 0 it stays the same.
    in_mode, out_mode
        "1D_AVG", "1D_MAX", "2D_AVG" (the default) or "2D_MAX"; for input and for output blocks.
    in_depth_decay, out_depth_decay
        0 to 4; 2.0.
    in_slothful, out_slothful
        0 to 50; 6.0 and 4.0.
    in_k_blend, in_v_blend, out_k_blend, out_v_blend
        0 to 1: 0 (the default) takes every n-th token as it is, 1 what its window pools to.
    compat
        "comfyui_slothful_attention": do as that pack does where it errs: input and output blocks
        swap their strength, SD2 is reduced as SDXL, blends of 1 and 1 do as 0 and 0, windows that
        do not fit are dropped, some grids are not known.

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of its range; the message names it.

    Notes
    -----
    Of ComfyUI's pack ``comfyui_slothful_attention`` (MIT).
    """

    type_name: ClassVar[str] = "slothful_attention"

    compat: str | None = compat_with(PACK)

    def side(self, block: str) -> Side:
        """Give the parameters for a block."""
        side = super().side(block)
        if self.imitates:
            other = super().side("input" if block == "output" else "output")
            side = side._replace(slothful=other.slothful)
        return side

    def skips(self, place: Place) -> str | None:
        """Say why it never acts at a layer; None where it may act."""
        block = place.layer.block
        if block == "middle":
            return "Slothful Attention leaves the middle block alone"
        stride = self.side(block).stride(place)
        return None if stride > 1 else f"its stride is {stride:.2g} at most"

    def plan(self, place: Place, call_key: CallKey, grid: Grid) -> Plan | None:
        """See ``TokenReduction.plan``."""
        side = self.side(place.layer.block)
        stride = side.stride(place, self.ratio(call_key))
        if self.imitates:
            grid = slothful_pack.guess_grid(call_key.latent, grid)
            return slothful_pack.pool_plan(stride, side.mode, side.blends, grid)
        return side.pool(stride, grid)
