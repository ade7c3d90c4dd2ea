# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What all patches of a stack do in calls of one layout and time, over all layers."""

from __future__ import annotations

from typing import Any

import torch

from attnpatch.engine.branch_plan import BranchPlan
from attnpatch.engine.cache import where
from attnpatch.engine.score_bias import BiasPlan
from attnpatch.engine.site import Call, Site
from attnpatch.engine.site_attention import SiteAttention, WrapperChain
from attnpatch.engine.text_guide import TextGuides

__all__ = ["Plan"]


class Plan:
    """What the patches do in calls of one layout and time; made by ``BoundStack.plan``."""

    __slots__ = ("_biases", "_branches", "_chains", "_guides", "_prepared")

    def __init__(
        self,
        branches: BranchPlan | None,
        chains: tuple[WrapperChain | None, ...],
        biases: BiasPlan | None = None,
        guides: tuple[TextGuides | None, ...] = (),
    ) -> None:
        self._branches = branches
        self._chains = chains
        self._biases = biases
        self._guides = guides or (None,) * len(chains)
        self._prepared: tuple[Any, ...] | None = None

    def prepare(self, call: Call, dtype: torch.dtype, device: torch.device) -> None:
        """See ``BoundStack.prepare``."""
        key = dtype, where(device), call.latent, call.crops
        if self._prepared == key:
            return
        if self._branches is not None:
            self._branches.prepare(call, dtype, device)
        for guides in dict.fromkeys(self._guides):
            if guides is not None and not guides.requires_grad:
                guides.context(dtype, device)
        self._prepared = key

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
