# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What all patches of a stack do in calls of one layout and time, over all layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from attnpatch.engine.branch_plan import BranchPlan
from attnpatch.engine.cache import where
from attnpatch.engine.joint_layers import JointLayer, Table
from attnpatch.engine.score_bias import BiasPlan
from attnpatch.engine.site import Call, Site
from attnpatch.engine.site_attention import SiteAttention, WrapperChain
from attnpatch.engine.text_guide import TextGuides
from attnpatch.engine.tokens import TEXT

__all__ = ["Plan"]


class Plan:
    """What the patches do in calls of one layout and time; made by ``BoundStack.plan``."""

    __slots__ = ("_biases", "_branches", "_chains", "_guides", "_keys", "_prepared", "_table")

    def __init__(
        self,
        table: Table,
        keys: tuple[str, ...],
        branches: BranchPlan | None,
        chains: tuple[WrapperChain | None, ...],
        biases: BiasPlan | None = None,
        guides: tuple[TextGuides | None, ...] = (),
    ) -> None:
        self._table = table
        self._keys = keys
        self._branches = branches
        self._chains = chains
        self._biases = biases
        self._guides = guides or (None,) * len(chains)
        self._prepared: tuple[Any, ...] | None = None

    def prepare(
        self, call: Call, dtype: torch.dtype, device: torch.device, text: int | None
    ) -> None:
        """See ``BoundStack.prepare``."""
        key = dtype, where(device), call.latent, call.crops, call.attentions, text
        if self._prepared == key:
            return
        for site in self._sites(call):
            acting = self.at(site)
            if acting is not None:
                keys = text if site.keys.count is None else site.keys.count
                acting.prepare(keys, dtype, device)
        for guides in dict.fromkeys(self._guides):
            if guides is not None and not guides.requires_grad:
                guides.context(dtype, device)
        self._prepared = key

    def _sites(self, call: Call) -> Iterator[Site]:
        """Give all sites of a call whose keys are those of the plan."""
        for layer in self._table:
            if isinstance(layer, JointLayer):
                for queries, keys in call.attentions:
                    if keys.names == self._keys:
                        yield Site(layer, call, queries, keys)
            elif TEXT in self._keys:
                yield Site.over_text(layer, call)
            else:
                yield Site.over_image(layer, call)

    def at(self, site: Site) -> SiteAttention | None:
        """Return what the patches do at a site of such a call; None: nothing."""
        index = site.layer.index
        branches = self._branches
        if branches is not None and not branches.acts(index):
            branches = None
        biases = self._biases
        if biases is not None and not biases.acts(index):
            biases = None
        chain = self._chains[index]
        guides = self._guides[index]
        if branches is None and chain is None and biases is None and guides is None:
            return None
        return SiteAttention(site, branches, chain, biases, guides)
