# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The plans of a stack's calls, made once for all calls that have them in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from attnpatch.engine.branch_plan import BranchPlan
from attnpatch.engine.cache import Cache
from attnpatch.engine.edits import Edits
from attnpatch.engine.joint_layers import Table
from attnpatch.engine.patch import BoundPatch
from attnpatch.engine.plan import Plan
from attnpatch.engine.score_bias import BiasPlan
from attnpatch.engine.site import Call
from attnpatch.engine.site_attention import WrapperChain
from attnpatch.engine.text_guide import TextGuide, TextGuides

__all__ = ["Plans"]


class Plans:
    """Makes and keeps plans; may be used from several threads.

    Parameters
    ----------
    bound
        The patches, bound to a model.
    skipped
        For each of them and each layer why it never acts there; None: it may.
    table
        The model's layers.
    """

    def __init__(
        self,
        bound: Sequence[BoundPatch],
        skipped: Sequence[Sequence[str | None]],
        table: Table,
    ) -> None:
        self._bound = bound
        self._skipped = skipped
        self._table = table
        self._edits = tuple(Cache(size=4) for _ in bound)
        self._plans: dict[tuple[str, ...], Cache] = defaultdict(lambda: Cache(size=4))
        self._branch_plans = Cache(size=4)
        self._bias_plans = Cache(size=4)
        self._masks = Cache(size=64)
        self._latest: dict[tuple[str, ...], tuple[Call, Plan | None]] = {}

    def of(self, call: Call, keys: tuple[str, ...]) -> Plan | None:
        """Return the plan of a call at layers with such keys; None: no patch acts there."""
        latest = self._latest.get(keys)
        if latest is None or latest[0] is not call:
            latest = self._latest[keys] = call, self._plan(call, keys)
        return latest[1]

    def _plan(self, call: Call, keys: tuple[str, ...]) -> Plan | None:
        acting = [
            (index, bound.time_key(call))
            for index, bound in enumerate(self._bound)
            if bound.keys in keys
        ]
        acting = [(index, time_key) for index, time_key in acting if time_key is not None]
        if not acting:
            return None
        key = (call.layout, call.degraded, tuple(acting))
        return self._plans[keys].get(key, lambda: self._make_plan(call, keys, acting))

    def _make_plan(
        self, call: Call, keys: tuple[str, ...], acting: Sequence[tuple[int, Hashable]]
    ) -> Plan:
        edits = {index: self._edits_of(index, call, time_key) for index, time_key in acting}
        branching = tuple(e for e in edits.values() if e.branches)
        branches = None
        if branching:
            # Times change what other patches do far more often than what branches do.
            branches = self._branch_plans.get(
                branching,
                lambda: BranchPlan(
                    self._table, (b for e in branching for b in e.branches), self._masks
                ),
            )
        biases = None
        biasing = tuple(e for e in edits.values() if e.biases)
        if biasing:
            biases = self._bias_plans.get(
                biasing,
                lambda: BiasPlan(self._table, (b for e in biasing for b in e.biases)),
            )
        chains: list[WrapperChain | None] = []
        guides: list[TextGuides | None] = []
        same: dict[tuple[TextGuide, ...], TextGuides] = {}
        for layer in self._table:
            wrappers = [
                edit.wrappers[layer.index]
                for index, edit in edits.items()
                if layer.index in edit.wrappers and self._skipped[index][layer.index] is None
            ]
            chains.append(WrapperChain(wrappers) if wrappers else None)
            acting_guides = tuple(
                edit.text_guides[layer.index]
                for edit in edits.values()
                if layer.index in edit.text_guides
            )
            guides.append(
                same.setdefault(acting_guides, TextGuides(acting_guides)) if acting_guides else None
            )
        return Plan(self._table, keys, branches, tuple(chains), biases, tuple(guides))

    def _edits_of(self, index: int, call: Call, time_key: Hashable) -> Edits:
        key = (call.layout, call.degraded, time_key)
        return self._edits[index].get(key, lambda: self._bound[index].edits(call, time_key))
