# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An image prompt fitted to one UNet: which branch does what in a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attnpatch._core import LayerTable, Window
from attnpatch.adapters.compat import Compat, is_node_pack
from attnpatch.engine.cache import Cache, upload, where
from attnpatch.engine.edits import Edits
from attnpatch.engine.masks import MaskPyramid
from attnpatch.engine.patch import BoundPatch
from attnpatch.engine.rows import key_rows, role_name, sample_rows
from attnpatch.engine.site import COND, UNCOND, Call
from attnpatch.engine.weights import Weight
from attnpatch.engine.window import is_active
from attnpatch.patches.image_prompt.keys_values import SCALINGS, KeysValues, move
from attnpatch.patches.image_prompt.parts import LayerTensors, Part, TrainablePart

__all__ = ["BoundImagePrompt", "ImageBranch"]

TimeKey = float | tuple[float | None, ...]
"""The factor of a weight's curve, or for each row of the batch its own; None: not active."""


@dataclass(frozen=True, match_args=False)  # its members are read alone
class Prompt(Protocol):
    """An image prompt, as far as its bound form asks; see ``ImagePrompt``."""

    keys_values: KeysValues
    weight: Weight
    mask: Tensor | None
    trained_mask: Tensor | None
    start: float
    end: float
    scaling: str
    shared_softmax: bool
    roles: tuple[tuple[int, str], ...]
    repeat_last: bool
    mask_resize: str
    compat: Compat | None

    @property
    def window(self) -> Window:
        """When it is active."""
        ...


class BoundImagePrompt(BoundPatch):
    """An image prompt fitted to one UNet."""

    def __init__(self, prompt: Prompt, table: LayerTable) -> None:
        prompt.keys_values.check(table)
        self.prompt = prompt
        self.window = prompt.window
        self.time_dependent = not self.window.full or bool(prompt.weight.curve)
        self.channels = table.channels
        self.scaling = SCALINGS[prompt.scaling]
        self.folds = self.scaling.folds(prompt.shared_softmax)
        # Fooocus computes it at any weight: its keys take a share of the text's softmax.
        self.zero_counts = prompt.compat == "fooocus"
        self.layer_weights = prompt.weight.for_layers(table)
        # Fooocus lets a picture weigh less beside a text that it has repeated.
        self.asks_repeats = prompt.shared_softmax and prompt.compat != "fooocus"
        self._skipped = tuple(
            self._reason(layer.block, weight)
            for layer, weight in zip(table, self.layer_weights, strict=True)
        )
        if all(weight is None for weight in self.layer_weights):
            raise ValueError(
                f"weight: {prompt.weight!r} names no layer of this UNet ({table.family})"
            )
        self.mask: MaskPyramid | None = None
        mask = prompt.mask if prompt.trained_mask is None else prompt.trained_mask
        if mask is not None:
            self.mask = MaskPyramid(mask, prompt.mask_resize, shared_softmax=prompt.shared_softmax)
        self.sources = tuple(PartTensors(part) for part in prompt.keys_values.parts)
        # Keys and values with a weight folded in: cond and uncond may come in calls of their own.
        self.folded = Cache(size=4 * len(table) * len(self.sources))

    def _reason(self, block: str, weight: float | None) -> str | None:
        prompt = self.prompt
        if is_node_pack(prompt.compat) and block == "middle":
            return f"compat: {prompt.compat} misses the middle block"
        if weight is None:
            return "the weight gives this layer nothing"
        zero = weight == 0 or (prompt.weight.samples != () and not any(prompt.weight.samples))
        if zero and not self.zero_counts:
            return "weight 0"
        trained = prompt.trained_mask is not None
        if prompt.mask is not None and not trained and not prompt.mask.any():
            return "the mask is empty"
        if self.window.empty:
            return f"no time between start {prompt.start} and end {prompt.end}"
        return None

    @property
    def skipped(self) -> Sequence[str | None]:
        """For each layer why the prompt never acts there; None where it may act."""
        return self._skipped

    @property
    def tells_roles_apart(self) -> bool:  # type: ignore[override]
        """Whether cond and uncond rows get different things."""
        roles = dict(self.prompt.roles)
        acts = any(reason is None for reason in self._skipped)
        return acts and role_name(COND, roles) != role_name(UNCOND, roles)

    def time_key(self, call: Call) -> TimeKey | None:
        """Give the curve's factor now, or that of each row; None: not active now."""
        factors = tuple(self._factor(point.progress) for point in call.points)
        if all(factor is None for factor in factors):
            return None
        return factors[0] if len(factors) == 1 else factors

    def _factor(self, progress: float | None) -> float | None:
        if not is_active(self.window, progress):
            return None
        factor = self.prompt.weight.factor(progress)
        return None if factor == 0 and not self.zero_counts else factor

    def edits(self, call: Call, time_key: TimeKey) -> Edits:
        """One branch, or two where cond and uncond have different numbers of tokens."""
        kv, hold = self.prompt.keys_values, self.prompt.repeat_last
        roles = dict(self.prompt.roles)
        rows = key_rows(call, roles, kv.pictures, kv.negatives, repeat_last=hold)
        factors = [1.0] * call.batch
        by_sample = self.prompt.weight.samples
        if by_sample:
            samples = sample_rows(call, len(by_sample), "weight", repeat_last=hold)
            factors = [by_sample[sample] for sample in samples]
        factor_now = 1.0
        if isinstance(time_key, tuple):  # rows at times of their own
            rows = [-1 if now is None else row for row, now in zip(rows, time_key, strict=True)]
            pairs = zip(factors, time_key, strict=True)
            factors = [0.0 if now is None else factor * now for factor, now in pairs]
        else:
            factor_now = time_key
        mask_rows = [0] * call.batch
        if self.prompt.mask is not None:
            mask_rows = sample_rows(call, len(self.prompt.mask), "mask", repeat_last=hold)
        repeats = (call.repeats if self.asks_repeats else ()) or (1,) * call.batch
        branches = [
            ImageBranch(self, source, rows, factors, factor_now, tuple(mask_rows), repeats)
            for source in self.sources
        ]
        return Edits(branches=tuple(branch for branch in branches if max(branch.rows) >= 0))


class PartTensors:
    """Keys and values of one part on the devices and in the dtypes that are asked for."""

    def __init__(self, part: Part | TrainablePart) -> None:
        self.part = part
        self._moved = Cache(size=2)

    def layer(
        self, index: int, dtype: torch.dtype | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Give keys and values of one layer; dtype None: as they are."""
        part, dtype = self.part, dtype or self.part.dtype
        if isinstance(part, TrainablePart):
            k, v = part.make_layer(index)
            return k.to(device, dtype), v.to(device, dtype)
        layers: LayerTensors = self._moved.get(
            (dtype, device), lambda: move(part.layers, dtype, device)
        )
        return layers[index]


class ImageBranch:
    """One branch of an image prompt in calls of one layout and time."""

    def __init__(
        self,
        bound: BoundImagePrompt,
        source: PartTensors,
        rows: Sequence[int],
        factors: Sequence[float],
        factor_now: float,
        mask_rows: tuple[int, ...],
        repeats: tuple[int, ...],
    ) -> None:
        self.shared_softmax = bound.prompt.shared_softmax
        self.mask = bound.mask
        self.mask_rows = mask_rows
        masked = bound.mask is not None and bound.mask.requires_grad
        self.requires_grad = source.part.requires_grad or masked
        self._bound = bound
        self._source = source
        self._factor_now = factor_now
        self._factors = tuple(factors)
        self._repeats = repeats
        first, end = source.part.first, source.part.first + source.part.rows
        self.rows = tuple(
            row - first if first <= row < end and (factor != 0 or bound.zero_counts) else -1
            for row, factor in zip(rows, factors, strict=True)
        )
        if bound.folds:
            # Each different pair of a row and a sample's weight becomes a row of its own.
            pairs = list(zip(self.rows, self._factors, strict=True))
            self._pairs = tuple(dict.fromkeys(pair for pair in pairs if pair[0] >= 0))
            self.rows = tuple(self._pairs.index(p) if p[0] >= 0 else -1 for p in pairs)

    def _effective(self, layer: int) -> float:
        """Give the weight as it acts on a layer, but for the samples' own."""
        weight = (self._bound.layer_weights[layer] or 0.0) * self._factor_now
        return self._bound.scaling.effective(weight, self._bound.channels[layer])

    def weights(self, layer: int) -> tuple[float, ...] | None:
        """For each row of the batch the factor of the branch's output; None: not at this layer."""
        if self._bound.skipped[layer] is not None:
            return None
        if self.shared_softmax:  # a text that stands there twice weighs twice, and so do we
            pairs = zip(self.rows, self._repeats, strict=True)
            return tuple(float(times if row >= 0 else 0) for row, times in pairs)
        if self._bound.scaling.mean:
            return tuple(float(row >= 0) for row in self.rows)
        weight = self._effective(layer)
        return tuple(
            weight * factor if row >= 0 else 0.0
            for row, factor in zip(self.rows, self._factors, strict=True)
        )

    def keys_values(
        self, layer: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (rows, tokens, channels) of the layer."""
        if not self._bound.folds:
            return self._source.layer(layer, dtype, device)
        weight = self._effective(layer)
        if self._source.part.requires_grad:
            return self._fold(layer, weight, dtype, device)
        key = (layer, self._source.part.first, weight, self._pairs, dtype, where(device))
        return self._bound.folded.get(key, lambda: self._fold(layer, weight, dtype, device))

    def _fold(
        self, layer: int, weight: float, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        k, v = self._source.layer(layer, None, device)
        rows = [row for row, _ in self._pairs]
        if rows != list(range(len(k))):
            index = upload(torch.tensor(rows, device="cpu"), device)
            k, v = k.index_select(0, index), v.index_select(0, index)
        weights = torch.tensor([weight * factor for _, factor in self._pairs], device="cpu")
        weights = upload(weights, device).view(-1, 1, 1)
        own_tokens = self._bound.prompt.keys_values.own_tokens
        k, v = self._bound.scaling.fold(k, v, weights, self.shared_softmax, own_tokens)
        return k.to(dtype), v.to(dtype)
