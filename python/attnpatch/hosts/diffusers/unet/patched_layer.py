# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""One attention layer of a patched UNet: its stand-in, and what the patches do there now."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.engine import IMAGE, TEXT, BoundStack, Call, Layer, MoreKeys, Site, SiteAttention
from attnpatch.hosts.diffusers.processor_slot import ProcessorSlot
from attnpatch.hosts.diffusers.running_call import Patched
from attnpatch.hosts.diffusers.skipping import scores_are_skipped
from attnpatch.hosts.diffusers.unet.processor import (
    PatchedProcessor,
    make_patched_processor,
)
from attnpatch.hosts.diffusers.unet.projections import attend_to_text
from attnpatch.hosts.diffusers.unet.self_processor import PatchedSelfProcessor, host_attention
from attnpatch.hosts.token_grids import grid_of


class PatchedLayer(ProcessorSlot):
    """One attention layer of a patched UNet, cross or self."""

    processor_class: type[Any]
    keys: str  # what its keys are
    attribute: str  # of the transformer block
    trained = False
    """Whether tensors of a patch require a gradient, and one may be asked for."""
    reduces = False
    """Whether a patch may give keys and values fewer tokens."""
    guides_text = False
    """Whether a patch may need keys and values of a text of its own."""
    shares_softmax = False
    """Whether a patch shares the text's softmax."""
    degraded = False
    """Whether a degraded pass of ours is running."""

    def __init__(self, patched: Patched, layer: Layer, block: Any) -> None:
        super().__init__(getattr(block, self.attribute))
        self.patched = patched
        self.layer = layer
        self.block = block

    def make_processor(self, original: Any) -> Any:
        """Return a processor of ours that stands in for this one."""
        return make_patched_processor(original, self, self.processor_class)

    def site(self, tokens: int) -> tuple[BoundStack, Site] | None:
        """Return the run and the site in the call that is running; None: none is.

        A UNet may resize its features on the way: the grid is that of the features where these
        were seen, else it follows from the count of tokens.
        """
        running = self.patched.running
        call: Call | None = running.call
        if call is None or running.run is None:
            return None
        running.reached = True
        features = running.features.get(self.layer.spatial)
        # Blocks that others have put in may merge tokens, of which no count tells a grid.
        guess = type(self.block).__module__.startswith("diffusers.")
        grid = grid_of(self.layer, tokens, call.latent, features, guess=guess)
        make = Site.over_text if self.keys == TEXT else Site.over_image
        return running.run, make(self.layer, call, grid)

    def begin(self, processor: Any, hidden_states: Tensor) -> SiteAttention | None:
        """Return what the patches do for these states; None: nothing, or not by this processor."""
        if processor is not self.patched_processor:
            return None
        acting = self.acting(_tokens(hidden_states.shape))
        return None if scores_are_skipped() else acting

    def acting(self, tokens: int) -> SiteAttention | None:
        """Return what the patches do for so many query tokens in the call that is running."""
        here = self.site(tokens)
        return None if here is None else here[0].at(here[1])

    def check_grid(self, site: Site, tokens: int, what: str) -> None:
        """Raise ValueError where the layer has other tokens than its grid."""
        if site.grid[0] * site.grid[1] != tokens:
            raise ValueError(
                f"{what}: expected {site.grid[0]} × {site.grid[1]} tokens at {self.layer.name} "
                f"for a latent of {site.call.latent}, got {tokens}: something merges or resizes "
                "them"
            )


class CrossLayer(PatchedLayer):
    """Attention to the text (attn2)."""

    processor_class = PatchedProcessor
    keys = TEXT
    attribute = "attn2"

    @property
    def shares_softmax(self) -> bool:  # type: ignore[override]
        """Whether a patch shares the text's softmax."""
        return self.patched.shared_softmax

    @property
    def trained(self) -> bool:  # type: ignore[override]
        """Whether tensors of a patch require a gradient, and one may be asked for."""
        return self.patched.trained and torch.is_grad_enabled()

    def acting(self, tokens: int) -> SiteAttention | None:
        """Return what the patches do for so many query tokens in the call that is running."""
        acting = super().acting(tokens)
        if acting is not None and acting.needs_grid:
            self.check_grid(acting.site, tokens, "mask")
        return acting

    @property
    def guides_text(self) -> bool:  # type: ignore[override]
        """Whether a patch may need keys and values of a text of its own."""
        return self.patched.guides_text

    def attend(
        self,
        acting: SiteAttention | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        more: MoreKeys | None = None,
    ) -> Tensor:
        """Attend to the text, plainly, and as the patches have it."""
        backend = self.patched_processor._attention_backend
        if mask is None and backend is None:
            if acting is None:
                return F.scaled_dot_product_attention(q, k, v)
            return acting.attend(q, k, v, more=more)
        attention = functools.partial(attend_to_text, self.module, mask=mask, backend=backend)
        if acting is None:
            return attention(q, k, v)
        return acting.attend(q, k, v, attention, is_softmax=False, more=more)

    def terms(
        self,
        acting: SiteAttention,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        mask: Tensor | None,
        more: MoreKeys | None,
    ) -> Tensor | None:
        """Give what the patches add to what another processor computes for the whole layer."""
        attention = functools.partial(
            attend_to_text,
            self.module,
            mask=mask,
            backend=self.patched_processor._attention_backend,
        )
        return acting.terms(q, k, v, more=more, text_attention=attention)


class SelfLayer(PatchedLayer):
    """Self-attention (attn1)."""

    processor_class = PatchedSelfProcessor
    keys = IMAGE
    attribute = "attn1"

    @property
    def degraded(self) -> bool:  # type: ignore[override]
        """Whether a degraded pass of ours is running."""
        return self.patched.running.degraded is not None

    @property
    def reduces(self) -> bool:  # type: ignore[override]
        """Whether a patch may give keys and values fewer tokens."""
        return self.patched.reduces and not self.patched_processor.attnpatch_perturbed

    def acting(self, tokens: int) -> SiteAttention | None:
        """Return what the patches do for so many tokens in the call that is running."""
        here = self.site(tokens)
        if here is None:
            return None
        run, site = here
        acting = run.at(site)
        if self.patched_processor.attnpatch_perturbed:
            acting = acting and acting.without_reduction()
            if acting is None and self.degraded:
                acting = SiteAttention(site, None, None)
        if acting is None:
            return None
        if acting.only_reduces and not acting.fits(tokens):
            return None  # another patch has reduced them
        if acting.needs_grid:
            self.check_grid(site, tokens, "self-attention")
        return acting

    def attend(
        self,
        acting: SiteAttention | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        more: MoreKeys | None = None,
    ) -> Tensor:
        """Attend as the layer's own processor does, with the patches around it."""
        attention = functools.partial(host_attention, self, mask=mask)
        if acting is None:
            return attention(q, k, v)
        processor = self.patched_processor
        is_softmax = (
            mask is None and processor.attnpatch_is_softmax and processor._attention_backend is None
        )
        return acting.attend(q, k, v, attention, is_softmax=is_softmax)


class FeatureShape:
    """Notes height and width of what a spatial transformer is given: its forward pre-hook."""

    def __init__(self, patched: Patched, spatial: int) -> None:
        self.patched = patched
        self.spatial = spatial

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note it in the call that is running."""
        if torch.compiler.is_compiling():  # what a graph notes, it would note once
            return
        features = args[0] if args else kwargs["hidden_states"]
        if features.ndim == 4:
            self.patched.running.features[self.spatial] = (features.shape[2], features.shape[3])


def _tokens(shape: torch.Size) -> int:
    return shape[1] if len(shape) == 3 else shape[2] * shape[3]
