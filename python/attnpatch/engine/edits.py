# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a patch answers: edits of attention, in calls of one layout and time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from attnpatch.engine.masks import MaskPyramid
from attnpatch.engine.score_bias import ScoreBias
from attnpatch.engine.site import Site
from attnpatch.engine.text_guide import TextGuide

__all__ = ["Attention", "AttentionWrapper", "Branch", "Edits", "Inner", "ReducingWrapper"]

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q, k, v) -> out, all (batch, heads, tokens, head size)."""


@dataclass(frozen=True, slots=True, eq=False)
class Edits:
    """All that one patch does in calls of one layout and time."""

    branches: tuple[Branch, ...] = ()
    """Attention to other keys, by a softmax of its own or the text's, and added."""
    wrappers: Mapping[int, AttentionWrapper] = field(default_factory=dict)
    """What stands around the whole attention of a layer, by the layer's index."""
    biases: tuple[ScoreBias, ...] = ()
    """More or less attention to chosen keys, in the softmax of the layer itself."""
    text_guides: Mapping[int, TextGuide] = field(default_factory=dict)
    """Guidance of attention to the text by another text, by the layer's index."""


class Branch(Protocol):
    """One image branch in calls of one layout and time, over all layers."""

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


class Inner:
    """Attention as it would be without the wrapper that is given it."""

    __slots__ = ("_attention", "is_softmax")

    def __init__(self, attention: Attention, is_softmax: bool) -> None:
        self._attention = attention
        self.is_softmax = is_softmax
        """Whether it is softmax(q kᵀ) v and nothing else: a wrapper may compute it its own way."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (batch, heads, N, size) to k and v (batch, heads, M, size)."""
        return self._attention(q, k, v)


class AttentionWrapper(Protocol):
    """One patch's part around the attention of one layer, in calls of one layout and time.

    It holds nothing of a running call: what it needs of that comes with the site. Who derives from
    it has to write ``attend`` alone: no tokens are reduced, and nothing is made beforehand.
    """

    reduces: bool = False
    """Whether it changes what keys and values are projected from."""
    needs_all_tokens: bool = False
    """Whether it needs every token's own key and value: nothing is reduced where it acts."""
    needs_grid: bool = False
    """Whether it asks for the site's grid, and trusts that the tokens fill it."""

    def prepare(self, site: Site, dtype: torch.dtype, device: torch.device) -> None:
        """Make what it will keep of a site for such queries, before the model runs."""

    def reduce(self, site: Site, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """Give what keys and values are projected from.

        Parameters
        ----------
        site : Site
            Which layer, in which call.
        k_input, v_input : Tensor
            (batch, N, channels) on the site's grid; often one tensor.

        Returns
        -------
        tuple of Tensor
            Two of (batch, M, channels).
        """
        return k_input, v_input

    @abstractmethod
    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend.

        Parameters
        ----------
        site : Site
            Which layer, in which call.
        q, k, v : Tensor
            (batch, heads, N, size) and twice (batch, heads, M, size), projected.
        inner : Inner
            Attention without this wrapper.

        Returns
        -------
        Tensor
            (batch, heads, N, size).
        """


class ReducingWrapper(AttentionWrapper, Protocol):
    """A wrapper that reduces."""

    def fits(self, site: Site, tokens: int) -> bool:
        """Whether so many tokens fill the grid; where not, they are left alone with a warning."""
