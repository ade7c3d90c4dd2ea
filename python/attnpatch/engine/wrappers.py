# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Self-attention under several patches: each is a stage around what would happen without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, cast

from torch import Tensor

from attnpatch.engine.site import Site

__all__ = ["AttentionWrapper", "Inner", "SelfAttention"]

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class Inner:
    """Attention as it would be without the stage that is given it."""

    __slots__ = ("_attention", "plain")

    def __init__(self, attention: Attention, plain: bool) -> None:
        self._attention = attention
        self.plain = plain
        """Whether it is softmax(q kᵀ) v and nothing else: a stage may then compute it its way."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q (batch, N, channels) to k and v (batch, M, channels)."""
        return self._attention(q, k, v)


class AttentionWrapper(Protocol):
    """One patch's part of self-attention at one layer, in calls of one layout and phase.

    It holds nothing of a running call: what it needs of that comes with the site.
    """

    reduces: bool
    """Whether it changes what keys and values are projected from."""
    whole: bool
    """Whether it needs every token's own key and value: nothing is reduced where it acts."""
    needs_grid: bool
    """Whether it asks for the site's grid, and trusts that the tokens fill it."""

    def reduce(self, site: Site, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """Give what keys and values are projected from.

        Parameters
        ----------
        site
            Which layer, in which call.
        k_input, v_input
            (batch, N, channels) on the site's grid; often one tensor.

        Returns
        -------
        tuple of Tensor
            Two of (batch, M, channels).
        """

    def attend(
        self, site: Site, q: Tensor, k: Tensor, v: Tensor, heads: int, inner: Inner
    ) -> Tensor:
        """Attend.

        Parameters
        ----------
        site
            Which layer, in which call.
        q, k, v
            (batch, N, channels) and twice (batch, M, channels), projected.
        heads
            How many heads the channels hold.
        inner
            Attention without this stage.

        Returns
        -------
        Tensor
            (batch, N, channels).
        """


class ReducingWrapper(AttentionWrapper, Protocol):
    """A stage that reduces."""

    def fits(self, site: Site, tokens: int) -> bool:
        """Whether so many tokens fill the grid; where not, they are left alone with a warning."""


class SelfAttention:
    """All wrappers at one layer, in calls of one layout and phase.

    The first stage is the outermost. A stage that reduces is the innermost, and there is one at
    most: the last of the stack wins; where a stage needs all tokens, there is none.
    """

    __slots__ = ("_reducing", "_stages", "reduces")

    def __init__(self, stages: Iterable[AttentionWrapper]) -> None:
        found = list(stages)
        outer = [stage for stage in found if not stage.reduces]
        reducing = [cast("ReducingWrapper", stage) for stage in found if stage.reduces]
        if any(stage.whole for stage in outer):
            reducing = []
        self._stages = (*outer, *reducing[-1:])
        self._reducing = reducing[-1] if reducing else None
        self.reduces = self._reducing is not None
        """Whether ``reduce`` changes anything."""

    @property
    def only_reduces(self) -> bool:
        """Whether it does nothing else."""
        return self._reducing is not None and len(self._stages) == 1

    @property
    def needs_grid(self) -> bool:
        """Whether a stage trusts that the tokens fill the site's grid."""
        return any(stage.needs_grid for stage in self._stages)

    def __bool__(self) -> bool:
        return bool(self._stages)

    @property
    def whole(self) -> SelfAttention | None:
        """The stages without the one that reduces, for hosts that can not let it; None: none."""
        if self._reducing is None:
            return self
        return SelfAttention(self._stages[:-1]) or None

    def fits(self, site: Site, tokens: int) -> bool:
        """Whether so many tokens fill the grid, so that they can be reduced; else it warns once."""
        return self._reducing is None or self._reducing.fits(site, tokens)

    def reduce(self, site: Site, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """Give what keys and values are projected from; see ``AttentionWrapper.reduce``."""
        if self._reducing is None:
            return k_input, v_input
        return self._reducing.reduce(site, k_input, v_input)

    def attend(
        self,
        site: Site,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        attention: Attention,
        *,
        plain: bool = True,
    ) -> Tensor:
        """Attend by all stages; see ``AttentionWrapper.attend``.

        Parameters
        ----------
        site, q, k, v, heads
            As for a stage; k and v are projected from what ``reduce`` gave.
        attention
            The host's own, or another patch's: (q, k, v) -> (batch, N, channels).
        plain
            Whether that is softmax(q kᵀ) v and nothing else.
        """
        inner = Inner(attention, plain)
        for stage in reversed(self._stages):
            inner = Inner(_around(stage, site, heads, inner), plain=False)
        return inner(q, k, v)


def _around(stage: AttentionWrapper, site: Site, heads: int, inner: Inner) -> Attention:
    return lambda q, k, v: stage.attend(site, q, k, v, heads, inner)
