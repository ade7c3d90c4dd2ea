# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A stack of patches at work in one model."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch._core import Layer, LayerTable
from attnpatch.patches.branches import Branches
from attnpatch.patches.cache import Cache, upload, where
from attnpatch.patches.heads import join_heads, split_heads
from attnpatch.patches.patch import BoundPatch, Branch, Patch
from attnpatch.patches.report import Report, Skip
from attnpatch.patches.self_attention import SelfAttention
from attnpatch.patches.site import Call, Crop, Site

if TYPE_CHECKING:
    from attnpatch.patches.stack import PatchStack

__all__ = ["CrossPlan", "Run"]


class Run:
    """A stack of patches bound to one model; made by ``PatchStack.bind``.

    It holds caches only, and may be used from several threads: what it computes follows from the
    stack, the table and the arguments alone. Copies are the run itself.
    """

    def __init__(self, stack: PatchStack, table: LayerTable) -> None:
        self.stack = stack
        self.table = table
        self._bound: tuple[BoundPatch, ...] = tuple(patch.bind(table) for patch in stack)
        for place, bound in enumerate(self._bound):
            bound.place = place
        self._skipped = tuple(
            _skipped(patch, bound, table) for patch, bound in zip(stack, self._bound, strict=True)
        )
        self._cross_patches = tuple(b for b in self._bound if b.attention == "cross")
        self._self_patches = tuple(b for b in self._bound if b.attention == "self")
        self._plans = Cache(size=4)
        self._self_plans = Cache(size=4)
        self._masks = Cache(size=64)
        self._latest: tuple[Call, CrossPlan | None] | None = None
        self._latest_self: tuple[Call, _SelfPlan | None] | None = None

    def branches(self, site: Site, dtype: torch.dtype, device: torch.device) -> Branches | None:
        """Give the image branches at a site for queries of this dtype and device.

        None: nothing to do here now; the host's own attention is then all there is.
        """
        if site.attention != "cross":
            return None
        plan = self.cross_plan(site.call)
        return None if plan is None else plan.at(site, dtype, device)

    def cross_plan(self, call: Call) -> CrossPlan | None:
        """Give what all calls like this one have in common; None: no patch acts in it.

        It is the same object in all such calls: what follows from it need not be worked out again.
        """
        latest = self._latest
        if latest is None or latest[0] is not call:
            latest = self._latest = call, self._cross_plan(call)
        return latest[1]

    def self_attention(self, site: Site) -> SelfAttention | None:
        """Give what the patches do to the self-attention of a layer in a call.

        None: nothing to do here now; the host's own attention is then all there is.
        """
        if not self._self_patches:
            return None
        call, latest = site.call, self._latest_self
        if latest is None or latest[0] is not call:
            latest = call, self._self_plan(call)
            self._latest_self = latest
        plan = latest[1]
        return None if plan is None else plan[site.layer.index]

    def active(self, call: Call) -> bool:
        """Whether any patch acts anywhere in this call."""
        return self._cross_plan(call) is not None or self._self_plan(call) is not None

    def attend(
        self,
        site: Site,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        heads: int | None = None,
        scale: float | None = None,
        branches: Branches | None = None,
    ) -> Tensor:
        """Attend to the text and to every image branch in one pass.

        Where nothing is to be done this is torch's own attention to the text.

        Parameters
        ----------
        site
            Which layer, in which call.
        q, k, v
            (batch, tokens, channels) with ``heads`` given, or (batch, heads, tokens, head size);
            any strides.
        heads
            How many heads the channels hold; only for the first form.
        scale
            Of the logits; None: head size ** -0.5.
        branches
            What ``branches`` gave for this site, q's dtype and device, for hosts that asked before.

        Returns
        -------
        Tensor
            (batch, tokens, channels).
        """
        q, k, v = _as_heads(q, heads), _as_heads(k, heads), _as_heads(v, heads)
        if branches is None:
            branches = self.branches(site, q.dtype, q.device)
        if branches is None:
            out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        else:
            out = _attend(site, q, k, v, branches, scale)
        return join_heads(out)

    def terms(
        self,
        site: Site,
        q: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        *,
        heads: int | None = None,
        scale: float | None = None,
        branches: Branches | None = None,
    ) -> Tensor | None:
        """Give what the image branches add to the text's attention, for a foreign base.

        Parameters and result as of ``attend``; None: nothing to add. A branch that shares the
        text's softmax is no term of a sum: given the text's k and v, what it adds is taken as the
        difference that it makes to plain attention.

        Raises
        ------
        ValueError
            Where a branch shares the text's softmax and k or v is not given.
        """
        q = _as_heads(q, heads)
        if branches is None:
            branches = self.branches(site, q.dtype, q.device)
        if branches is None:
            return None
        if branches.joint:
            if k is None or v is None:
                raise ValueError(
                    "terms: a joint image prompt shares the text's softmax, so that its term needs "
                    "the text's k and v; give them, or use a prompt with joint=False"
                )
            k, v = _as_heads(k, heads), _as_heads(v, heads)
            plain = F.scaled_dot_product_attention(q, k, v, scale=scale)
            out = _attend(site, q, k, v, branches, scale) - plain
            return join_heads(out)
        empty = q.new_empty(q.shape[0], q.shape[1], 0, q.shape[3])
        return join_heads(_attend(site, q, empty, empty, branches, scale))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers at which any patch may act."""
        return self._layers(self._bound)

    @property
    def cross_layers(self) -> tuple[Layer, ...]:
        """The layers whose cross-attention a patch may change; hosts can leave the others alone."""
        return self._layers(self._cross_patches)

    @property
    def self_layers(self) -> tuple[Layer, ...]:
        """The layers whose self-attention a patch may change; hosts can leave the others alone."""
        return self._layers(self._self_patches)

    @property
    def reduces(self) -> bool:
        """Whether a patch may reduce what keys and values of self-attention are projected from."""
        return any(bound.reduces for bound in self._self_patches)

    @property
    def timed(self) -> bool:
        """Whether any patch asks for the time of a call; hosts need not find it out for others."""
        return any(bound.timed for bound in self._bound)

    @property
    def tells_kinds_apart(self) -> bool:
        """Whether any patch needs to know which rows are cond and which uncond."""
        return any(bound.tells_kinds_apart for bound in self._bound)

    def _layers(self, bounds: Sequence[BoundPatch]) -> tuple[Layer, ...]:
        skips = [self._skipped[bound.place] for bound in bounds]
        return tuple(layer for layer in self.table if any(s[layer.index] is None for s in skips))

    def report(self) -> Report:
        """Say which layers are patched, and which are not and why."""
        return Report(
            wanted=tuple(self.table) if self._bound else (),
            matched=self.layers,
            skipped=tuple(
                Skip(layer, place, reason)
                for place, bound in enumerate(self._bound)
                for layer, reason in zip(self.table, self._skipped[bound.place], strict=True)
                if reason is not None
            ),
            nbytes=self.stack.nbytes,
        )

    def _cross_plan(self, call: Call) -> CrossPlan | None:
        phases = tuple(bound.phase(call) for bound in self._cross_patches)
        if all(phase is None for phase in phases):
            return None
        key = (call.layout, phases)
        return self._plans.get(key, lambda: CrossPlan(self, call, phases))

    def _self_plan(self, call: Call) -> _SelfPlan | None:
        phases = tuple(bound.phase(call) for bound in self._self_patches)
        if all(phase is None for phase in phases):
            return None
        key = (call.layout, call.degraded, phases)
        return self._self_plans.get(key, lambda: self._stages(call, phases))

    def _stages(self, call: Call, phases: Sequence[Hashable | None]) -> _SelfPlan:
        """For each layer its stages of self-attention."""
        acting = [b for b in zip(self._self_patches, phases, strict=True) if b[1] is not None]
        plan = []
        for layer in self.table:
            found = [
                bound.stage(layer, call, phase)
                for bound, phase in acting
                if self._skipped[bound.place][layer.index] is None
            ]
            plan.append(SelfAttention(s for s in found if s is not None) or None)
        return tuple(plan)

    def __copy__(self) -> Run:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Run, (self.stack, self.table)

    def __repr__(self) -> str:
        return f"<Run of {self.stack!r} in {self.table!r}>"


def _skipped(patch: Patch, bound: BoundPatch, table: LayerTable) -> Sequence[str | None]:
    """For each layer why a patch never acts there: it says so, or the UNet lacks what it acts on.

    Raises ValueError where there is nothing left, but for the UNet.
    """
    skipped = bound.skipped
    if bound.attention != "self" or all(table.heads):
        return skipped
    there = [heads > 0 for heads in table.heads]
    if None in skipped and not any(
        has and reason is None for has, reason in zip(there, skipped, strict=True)
    ):
        first = table[skipped.index(None)].name
        raise ValueError(
            f"model: expected self-attention where {type(patch).__name__} acts, such as {first}, "
            "but this UNet has none there"
        )
    return tuple(
        reason or (None if has else "this UNet has no self-attention there")
        for has, reason in zip(there, skipped, strict=True)
    )


_SelfPlan = tuple[SelfAttention | None, ...]


class CrossPlan:
    """All that calls of one layout and phase have in common; made by ``Run.cross_plan``."""

    def __init__(self, run: Run, call: Call, phases: Sequence[Hashable | None]) -> None:
        found = [
            branch
            for bound, phase in zip(run._cross_patches, phases, strict=True)
            if phase is not None
            for branch in bound.branches(call, phase)
        ]
        self._branches: list[Branch] = sorted(found, key=lambda branch: not branch.joint)
        self._table = run.table
        self._masks = run._masks
        self._layout = call.layout
        self._active: list[tuple[int, ...]] = []  # for each layer the branches that act there
        self._first: list[int] = []  # for each layer where its weights begin
        weights: list[tuple[float, ...]] = []
        for layer in range(len(run.table)):
            here = [(i, branch.weights(layer)) for i, branch in enumerate(self._branches)]
            here = [(i, w) for i, w in here if w is not None]
            for i, w in here:
                least = min(w, default=0.0)
                if self._branches[i].joint and least < 0:
                    raise ValueError(
                        f"weight: expected at least 0 in a shared softmax, got {least}"
                    )
            self._active.append(tuple(i for i, _ in here))
            self._first.append(len(weights))
            weights += [w for _, w in here]
        self._weights = torch.tensor(weights, dtype=torch.float32)
        self._rows = torch.tensor([branch.rows for branch in self._branches])
        self._uploads = Cache(size=4)
        self._sites = Cache(size=4 * len(run.table))
        self._masked = [
            any(self._branches[i].mask is not None for i in active) for active in self._active
        ]
        self._trained = [
            any(self._branches[i].requires_grad for i in active) for active in self._active
        ]

    def at(self, site: Site, dtype: torch.dtype, device: torch.device) -> Branches | None:
        """Give the branches at a site; see ``Run.branches``."""
        index = site.layer.index
        if not self._active[index]:
            return None
        if self._trained[index]:  # in each call of its values and its graph
            return self._make(site, dtype, device)
        grid, parts = (site.grid, _parts(site.call)) if self._masked[index] else (None, None)
        key = (index, dtype, where(device), grid, parts)
        return self._sites.get(key, lambda: self._make(site, dtype, device))

    def _make(self, site: Site, dtype: torch.dtype, device: torch.device) -> Branches:
        index = site.layer.index
        if self._table[index] != site.layer:
            raise ValueError(f"site: {site.layer!r} is not of the table that the run is bound to")
        active = self._active[index]
        branches = [self._branches[i] for i in active]
        rows, weights = self._uploads.get(
            where(device),
            lambda: (upload(self._rows, device).unbind(0), upload(self._weights, device)),
        )
        pairs = [branch.keys_values(index, dtype, device) for branch in branches]
        first = self._first[index]
        return Branches(
            k=[k for k, _ in pairs],
            v=[v for _, v in pairs],
            rows=[rows[i] for i in active],
            weights=weights[first : first + len(active)],
            masks=self._mask(branches, site, device) if self._masked[index] else None,
            joint=sum(branch.joint for branch in branches),
            requires_grad=self._trained[index],
        )

    def _mask(self, branches: Sequence[Branch], site: Site, device: torch.device) -> Tensor:
        masks = tuple((branch.mask, branch.mask_rows) for branch in branches)
        grid, parts = site.grid, _parts(site.call)
        if any(mask is not None and mask.requires_grad for mask, _ in masks):
            return _stack_masks(masks, grid, parts, device)
        key = (masks, grid, parts, where(device))
        return self._masks.get(key, lambda: upload(_stack_masks(masks, grid, parts), device))


_Part = tuple[Crop | None, tuple[int, int]]
"""Which part of the picture a row shows, and the latent's height and width."""


def _parts(call: Call) -> tuple[_Part, ...] | None:
    """Return the part that each row shows, where any shows one; None: all show all."""
    return tuple((crop, call.latent) for crop in call.crops) or None


def _stack_masks(
    masks: Sequence[tuple[Any, tuple[int, ...]]],
    grid: tuple[int, int],
    parts: Sequence[_Part] | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Masks (branches, 1 or batch, tokens): 1 where all rows of the batch share theirs."""
    tokens = grid[0] * grid[1]
    found = []
    for mask, pictures in masks:
        if mask is None:
            found.append(torch.ones(1, tokens))
            continue
        rows = list(zip(pictures, parts or (None,) * len(pictures), strict=True))
        if len(set(rows)) == 1:
            rows = rows[:1]
        found.append(torch.stack([mask.at(grid, *(part or ()))[picture] for picture, part in rows]))
    batch = max(len(mask) for mask in found)
    return torch.stack([mask.to(device).expand(batch, tokens) for mask in found])


def _attend(
    site: Site, q: Tensor, k: Tensor, v: Tensor, branches: Branches, scale: float | None
) -> Tensor:
    branches.check(site, q.shape[0], q.shape[2])
    return branches.attend(q, k, v, scale)


def _as_heads(tensor: Tensor, heads: int | None) -> Tensor:
    if tensor.dim() == 4:
        return tensor
    if heads is None or tensor.dim() != 3:
        raise ValueError(
            "q, k, v: expected (batch, heads, tokens, head size), or (batch, tokens, channels) "
            f"with heads given; got shape {tuple(tensor.shape)} and heads={heads}"
        )
    return split_heads(tensor, heads)
