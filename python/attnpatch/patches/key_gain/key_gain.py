# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A gain on keys: attention to a reference, to words, or to the prompt of a region, multiplied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnpatch._core import LayerTable
from attnpatch.engine.joint_layers import JointTable
from attnpatch.engine.masks import MASK_RESIZE_MODES, to_mask
from attnpatch.engine.patch import Patch
from attnpatch.engine.tokens import TEXT
from attnpatch.engine.weights import Weight, WeightLike, number
from attnpatch.engine.window import check_window
from attnpatch.patches.key_gain.bound import BoundKeyGain
from attnpatch.patches.key_gain.keys import Keys, ReferenceKeys, TextKeys, keys_from_state

__all__ = ["KeyGain"]

ROWS = ("image", "all")


@dataclass(frozen=True, eq=False, repr=False)
class KeyGain(Patch):
    """Attention to chosen keys, multiplied: 0 removes them, 1 leaves them, 2 counts them twice.

    A query attends to key m in proportion to ``gain[n, m] * exp(scale * q[n] k[m])``: log(gain) is
    added to the score before the softmax, so that what the keys gain, all others lose. No mask of
    all queries by all keys is made, and the host's own attention stays in use.

    Parameters
    ----------
    keys : ReferenceKeys or TextKeys
        Which keys.
    gain : float
        By what attention to them is multiplied, at least 0.
    value_gain : float
        By what their values are multiplied as well; negative: they push away.
    outside : float
        The gain for tokens of the image outside of `mask`, at least 0.
    rows : str
        Whose attention: "image", the tokens of the image that is made; "all", those of text and
        references as well.
    mask : array or Tensor or None
        Where in the image, (H, W) or (samples, H, W), 0 to 1, in any size: between are mixtures of
        `gain` and `outside`. None: everywhere.
    weight : Weight and its short forms
        How far the gains are from 1, over layers, progress and samples: 0 is off, 1 is `gain`, a
        half is half way.
    start, end : float
        The part of sampling in which it is active, 0 to 1.
    uncond : bool or None
        Whether uncond rows have it too. None: for references, not for text, where other words stand
        in the same places.
    mask_resize : str
        How the mask is brought to the tokens: "bilinear", "area", "bicubic" or "nearest".

    Raises
    ------
    TypeError, ValueError
        For what makes no sense, naming it.

    Examples
    --------
    >>> KeyGain(ReferenceKeys(0), 1.5, start=0.0, end=0.6)
    KeyGain(ReferenceKeys(0), 1.5, end=0.6)
    """

    keys: Keys
    gain: float = 1.0
    value_gain: float = 1.0
    outside: float = 1.0
    rows: str = "image"
    mask: Any = None
    weight: WeightLike = 1.0
    start: float = 0.0
    end: float = 1.0
    uncond: bool | None = None
    mask_resize: str = "area"

    type_name: ClassVar[str] = "key_gain"
    joint: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.keys, ReferenceKeys | TextKeys):
            raise TypeError(
                f"keys: expected ReferenceKeys or TextKeys, got {type(self.keys).__name__}"
            )
        for name in ("gain", "value_gain", "outside"):
            value = number(name, getattr(self, name))
            if value < 0 and name != "value_gain":
                raise ValueError(f"{name}: expected at least 0, got {value}")
            self._set(name, value)
        if self.rows not in ROWS:
            raise ValueError(f"rows: expected one of {ROWS}, got {self.rows!r}")
        if self.mask_resize not in MASK_RESIZE_MODES:
            raise ValueError(
                f"mask_resize: expected one of {MASK_RESIZE_MODES}, got {self.mask_resize!r}"
            )
        if self.mask is not None:
            if isinstance(self.mask, Tensor) and self.mask.requires_grad:
                raise ValueError(
                    "mask: expected a mask without gradient, got one whose gradient would be cut; "
                    "give mask.detach()"
                )
            mask = to_mask(self.mask)
            if float(mask.min()) < 0 or float(mask.max()) > 1:
                raise ValueError(
                    f"mask: expected values of 0 to 1, got {float(mask.min())} to "
                    f"{float(mask.max())}"
                )
            self._set("mask", mask)
        elif self.outside != 1.0:
            raise ValueError(f"outside: expected 1 without a mask, got {self.outside}")
        self._set("weight", Weight.of(self.weight))
        start, end = check_window(self.start, self.end)
        self._set("start", start)
        self._set("end", end)
        uncond = self.keys.span != TEXT if self.uncond is None else self.uncond
        if not isinstance(uncond, bool):
            raise TypeError(f"uncond: expected True, False or None, got {self.uncond!r}")
        self._set("uncond", uncond)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def bind(self, table: LayerTable | JointTable, index: int = 0) -> BoundKeyGain:
        """Fit it to a model; see ``Patch.bind``."""
        return BoundKeyGain(self, table)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything the patch is; see ``Patch.state``."""
        assert isinstance(self.weight, Weight)
        keys, tensors = self.keys.state()
        if self.mask is not None:
            tensors = {**tensors, "mask": self.mask}
        names = ("gain", "value_gain", "outside", "rows", "start", "end", "uncond", "mask_resize")
        values = {name: getattr(self, name) for name in names}
        return {"keys": keys, "weight": self.weight.to_json(), **values}, tensors

    @classmethod
    def from_state(cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> KeyGain:
        """Make the patch again; see ``Patch.from_state``."""
        rest = dict(values)
        keys = keys_from_state(rest.pop("keys"), dict(tensors))
        weight = Weight.from_json(rest.pop("weight"))
        return cls(keys, weight=weight, mask=tensors.get("mask"), **rest)

    @property
    def samples(self) -> int:
        """How many samples of a batch it tells apart; 1: all get the same."""
        assert isinstance(self.weight, Weight)
        masks = 1 if self.mask is None else len(self.mask)
        return max(masks, len(self.weight.samples), 1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyGain):
            return NotImplemented
        (mine, my_tensors), (its, its_tensors) = self.state(), other.state()
        if mine != its or my_tensors.keys() != its_tensors.keys():
            return False
        return all(torch.equal(my_tensors[name], its_tensors[name]) for name in my_tensors)

    def __hash__(self) -> int:
        return hash((self.keys, self.gain, self.weight))

    def __repr__(self) -> str:
        parts = [repr(self.keys), repr(self.gain)]
        usual = {"value_gain": 1.0, "outside": 1.0, "rows": "image", "start": 0.0, "end": 1.0}
        parts += [
            f"{name}={getattr(self, name)!r}"
            for name, value in usual.items()
            if getattr(self, name) != value
        ]
        if self.weight != Weight():
            parts.append(f"weight={self.weight!r}")
        if self.mask is not None:
            parts.append(f"mask of {tuple(self.mask.shape)}")
        return f"KeyGain({', '.join(parts)})"
