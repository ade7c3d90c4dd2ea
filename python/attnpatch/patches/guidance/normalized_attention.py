# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Normalized attention guidance (NAG, arXiv 2505.21179): a negative prompt in attention itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnpatch._core import LayerTable
from attnpatch.engine.joint_layers import JointTable
from attnpatch.engine.patch import Patch
from attnpatch.engine.weights import number
from attnpatch.engine.window import check_window
from attnpatch.patches.guidance.blocks import check_blocks
from attnpatch.patches.guidance.bound_normalized import BoundNormalizedAttention
from attnpatch.patches.guidance.joint_normalized import BoundJointNormalized

__all__ = ["NormalizedAttentionGuidance"]

_PROGRAM = "normalized-attention-guidance"
"""The authors' own."""


@dataclass(frozen=True, eq=False, repr=False)
class NormalizedAttentionGuidance(Patch):
    """Normalized attention guidance: away from a negative prompt, within each layer (NAG).

    Where the image attends to the text, with z⁺ what it finds there and z⁻ what the same queries
    find in the negative text (Chen et al. 2025, arXiv 2505.21179)::

        z̃ = scale · z⁺ − (scale − 1) · z⁻          away from the negative
        ẑ = z̃ · min(1, tau · ‖z⁺‖₁ / ‖z̃‖₁)         but not too far, for each token
        z = alpha · ẑ + (1 − alpha) · z⁺

    It acts on cond rows, at any guidance scale and also where there is no uncond at all, with a
    negative prompt of its own. What image prompts add keeps its weight: guidance is of the text.

    Parameters
    ----------
    negative : Tensor
        The negative prompt's text embeddings as the model is given them, (tokens, channels),
        (1, tokens, channels), or one for each image that is made, (images, tokens, channels). In
        joint attention they go through the model beside the prompt.
    scale : float or None
        How far away; 1 is off. None: 5, or what `phi` says.
    tau : float
        The largest growth of a token's norm, at least 0.
    alpha : float
        How much of the result is guided, 0 (off) to 1.
    start, end : float
        The part of sampling in which it is active, 0 to 1.
    blocks : str or None
        Where in a UNet, as "m0,u0.4,d2.2-9"; see ``find_blocks``. None: at all layers.
    attention_mask : Tensor or None
        (tokens,) or (images, tokens): which tokens of the negative are its own, true or 1, and
        which are padding that must not be attended to. None: all are its own.
    phi : float or None
        The scale as the paper counts it, scale − 1, in place of `scale`.
    compat : str or None
        "normalized-attention-guidance": norms are Euclidean, as in the authors' first code for
        Flux. None: as above.

    Raises
    ------
    TypeError, ValueError
        For what makes no sense, naming it.

    Examples
    --------
    >>> negative = pipeline.encode_prompt("blurry", "cpu", 1, False)[0]  # of SD1.5
    >>> attach(pipeline, NormalizedAttentionGuidance(negative, scale=4.0))
    """

    negative: Tensor
    scale: float | None = None
    tau: float = 2.5
    alpha: float = 0.25
    start: float = 0.0
    end: float = 1.0
    blocks: str | None = None
    attention_mask: Tensor | None = None
    phi: InitVar[float | None] = None
    compat: str | None = None

    type_name: ClassVar[str] = "normalized_attention_guidance"
    joint: ClassVar[bool] = True

    def __post_init__(self, phi: float | None) -> None:
        self._set("negative", _read_negative(self.negative))
        if self.attention_mask is not None:
            self._set("attention_mask", _read_mask(self.attention_mask, self.negative))
        if self.scale is not None and phi is not None:
            raise ValueError(f"phi: expected scale or phi, got {phi} beside scale={self.scale}")
        if phi is not None:
            self._set("scale", 1.0 + number("phi", phi))
        else:
            self._set("scale", 5.0 if self.scale is None else number("scale", self.scale))
        self._set("tau", number("tau", self.tau))
        self._set("alpha", number("alpha", self.alpha))
        if self.tau < 0:
            raise ValueError(f"tau: expected at least 0, got {self.tau}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha: expected 0 to 1, got {self.alpha}")
        start, end = check_window(self.start, self.end)
        self._set("start", start)
        self._set("end", end)
        if self.blocks is not None:
            self._set("blocks", check_blocks(self.blocks))
        if self.compat not in (None, _PROGRAM):
            raise ValueError(f"compat: expected None or {_PROGRAM!r}, got {self.compat!r}")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def bind(
        self, table: LayerTable | JointTable, index: int = 0
    ) -> BoundNormalizedAttention | BoundJointNormalized:
        """Fit it to a model; see ``Patch.bind``."""
        if isinstance(table, JointTable) and not table.over_text:
            return BoundJointNormalized(self, table)
        return BoundNormalizedAttention(self, table)

    @property
    def samples(self) -> int:
        """How many samples of a batch it tells apart; 1: all get the same."""
        return len(self.negative)

    @property
    def requires_grad(self) -> bool:
        """Whether the negative does."""
        return self.negative.requires_grad

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything it is; see ``Patch.state``."""
        tensors = {"negative": self.negative}
        if self.attention_mask is not None:
            tensors["attention_mask"] = self.attention_mask
        names = ("scale", "tau", "alpha", "start", "end", "blocks", "compat")
        return {name: getattr(self, name) for name in names}, tensors

    @classmethod
    def from_state(
        cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> NormalizedAttentionGuidance:
        """Make it again; see ``Patch.from_state``."""
        return cls(tensors["negative"], attention_mask=tensors.get("attention_mask"), **values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NormalizedAttentionGuidance):
            return NotImplemented
        (mine, my_tensors), (its, its_tensors) = self.state(), other.state()
        if mine != its or my_tensors.keys() != its_tensors.keys():
            return False
        return all(torch.equal(my_tensors[name], its_tensors[name]) for name in my_tensors)

    def __hash__(self) -> int:
        return hash((self.scale, self.tau, self.alpha, self.negative.shape))

    def __repr__(self) -> str:
        parts = [f"negative of {tuple(self.negative.shape)}", f"scale={self.scale!r}"]
        usual = {"tau": 2.5, "alpha": 0.25, "start": 0.0, "end": 1.0, "blocks": None}
        parts += [
            f"{name}={getattr(self, name)!r}"
            for name, value in {**usual, "compat": None}.items()
            if getattr(self, name) != value
        ]
        if self.attention_mask is not None:
            parts.append(f"{int(self.attention_mask.sum())} tokens of its own")
        return f"NormalizedAttentionGuidance({', '.join(parts)})"


def _read_negative(negative: Any) -> Tensor:
    """Return text embeddings as (images, tokens, channels)."""
    if not isinstance(negative, Tensor):
        raise TypeError(f"negative: expected a tensor of text embeddings, got {negative!r:.80}")
    shape = tuple(negative.shape)
    if not negative.is_floating_point() or len(shape) not in (2, 3, 4) or 0 in shape:
        raise ValueError(
            "negative: expected text embeddings (tokens, channels) or (images, tokens, channels) "
            f"of floats, got {shape} of {negative.dtype}"
        )
    if not bool(negative.detach().isfinite().all()):
        raise ValueError(
            "negative: expected finite text embeddings, got NaN or infinity among them"
        )
    return negative[None] if len(shape) == 2 else negative


def _read_mask(mask: Any, negative: Tensor) -> Tensor:
    """Return which tokens of the negative are its own, bool (images, tokens)."""
    raw = torch.as_tensor(mask)
    wanted = tuple(negative.shape[:2])
    shape = tuple(raw.shape)
    if shape not in (wanted, (1, wanted[1]), wanted[1:]):
        raise ValueError(
            f"attention_mask: expected {wanted}, a value for each token of negative, got {shape}"
        )
    if not bool(((raw == 0) | (raw == 1)).all()):
        raise ValueError("attention_mask: expected 0 or 1, or booleans, got other numbers")
    own = (raw != 0).expand(wanted).contiguous()
    if not bool(own.any(1).all()):
        raise ValueError("attention_mask: expected at least one token in each row, got none")
    return own
