# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An adapter's projection network: from an encoder's features to image tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from attnpatch import _core
from attnpatch.adapters.combine import COMBINE_MODES, combine_features, join_tokens
from attnpatch.adapters.compat import Compat, is_node_pack
from attnpatch.adapters.encoders import check_features
from attnpatch.adapters.inputs import Image, as_tensor, check_values, count_rows
from attnpatch.adapters.layout import Layout
from attnpatch.adapters.state_dicts import Tensors

__all__ = ["TokenOptions", "TokenProjection", "check_combine"]

logger = logging.getLogger("attnpatch")

_NETS: dict[str, Callable[[Tensors], Any]] = {
    "linear": _core.LinearProjection,
    "mlp": _core.MlpProjection,
    "token mlp": _core.MlpProjection,
    "resampler": _core.Resampler,
    "face perceiver": _core.FaceIdPlusProjection,
}


def check_combine(combine: str | None) -> str:
    """Return the mode that `combine` names; None is "batch".

    Raises
    ------
    ValueError
        No mode of that name.
    """
    if combine is None:
        return "batch"
    if combine not in COMBINE_MODES:
        raise ValueError(
            f"combine: expected one of {', '.join(COMBINE_MODES)} or None, got {combine!r}"
        )
    return combine


@dataclass(frozen=True)
class TokenOptions:
    """How features become tokens; see `ImageAdapter.get_image_embeds`."""

    combine: str
    shortcut_scale: float
    compat: Compat | None


@dataclass(frozen=True)
class TokenProjection:
    """The network of one adapter, and what it takes.

    Attributes
    ----------
    layout : Layout
        Says what the network takes.
    net : callable
        The network itself: features of each input to tokens (P, T, context).
    device : torch.device
        Where it computes.
    """

    layout: Layout
    net: Callable[..., torch.Tensor]
    device: torch.device

    @classmethod
    def of(cls, layout: Layout, weights: Tensors, device: torch.device) -> TokenProjection:
        """Make it of a checkpoint's weights."""
        return cls(layout, _NETS[layout.structure](weights), device)

    def make(
        self, image: Image, negative: Image | None, options: TokenOptions
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Make tokens of features.

        Returns
        -------
        cond, uncond : torch.Tensor
            (P or 1, T, context).
        pictures : int
            How many pictures there were.
        """
        kind = self.layout.kind
        if options.shortcut_scale != 1.0 and kind != "faceid_plus_v2":
            raise ValueError(f"shortcut_scale: only faceid_plus_v2 has one; this is {kind}")
        inputs = self._split("image", image)
        pictures = count_rows("image", inputs)
        zeros = [torch.zeros_like(tensor[:1]) for tensor in inputs]
        if negative is None:
            if any(takes.form == "hidden" for takes in self.layout.takes):
                logger.warning(
                    "negative: zeros stand in for the hidden states of an empty picture, which a "
                    "%s adapter should be given; ImageAdapter.encode makes them",
                    kind,
                )
            negatives = zeros
        else:
            negatives = self._split("negative", negative, zeros)
            if (rows := count_rows("negative", negatives)) not in (1, pictures):
                raise ValueError(f"negative: expected 1 or {pictures} pictures, got {rows}")
        cond = self._project(inputs, options)
        if is_node_pack(options.compat) and options.combine not in ("concat", "batch"):
            negatives = [tensor[:1] for tensor in negatives]
            uncond = self._project(negatives, replace(options, combine="concat"))
        else:
            uncond = self._project(negatives, options)
        if options.combine == "concat":
            cond = join_tokens(cond)
            uncond = join_tokens(uncond.expand(pictures, -1, -1))
        return cond, uncond, pictures

    def _split(
        self, name: str, value: Image, zeros: list[torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """Check the features of each input and bring them to the adapter's device."""
        takes_all, kind, values = self.layout.takes, self.layout.kind, [value]
        if len(takes_all) == 2:
            if isinstance(value, tuple | list) and len(value) == 2:
                values = list(value)
            elif zeros is not None:
                values = [None, value]
            else:
                raise TypeError(
                    f"{name}: a {kind} adapter takes a pair of {takes_all[0]} and "
                    f"{takes_all[1]}, got {type(value).__name__}"
                )
        result = []
        for index, (part, takes) in enumerate(zip(values, takes_all, strict=True)):
            if part is None and zeros is not None:
                result.append(zeros[index])
                continue
            tensor = as_tensor(name, part, takes)
            check_features(name, tensor.shape, takes, kind)
            check_values(name, tensor, takes)
            result.append(tensor.to(self.device))
        return result

    def _project(self, inputs: list[torch.Tensor], options: TokenOptions) -> torch.Tensor:
        rows = max(tensor.shape[0] for tensor in inputs)
        features = [
            combine_features(
                tensor.expand(rows, *tensor.shape[1:]), options.combine, compat=options.compat
            )
            for tensor in inputs
        ]
        if len(features) == 2:
            has_shortcut = self.layout.kind == "faceid_plus_v2"
            return self.net(*features, options.shortcut_scale if has_shortcut else None)
        if self.layout.structure == "resampler" and features[0].dim() == 2:
            return self.net(features[0].unsqueeze(1))
        return self.net(features[0])
