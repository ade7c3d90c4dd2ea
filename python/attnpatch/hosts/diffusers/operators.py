# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the patches compute at one layer in one call, eagerly or as one operator in a graph."""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.engine import BoundStack, Branches, Site
from attnpatch.engine.heads import join_heads

if TYPE_CHECKING:
    from attnpatch.hosts.diffusers.unet.patched_layer import CrossLayer, PatchedLayer


class Branching(Protocol):
    """The patches' part of one layer's attention; q, k and v are (B, H, N or T, D)."""

    @property
    def shared_softmax(self) -> bool:
        """Whether a branch may share the text's softmax."""
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return attention to the text plus the patches' terms, (B, N, C)."""
        ...

    def terms(self, q: Tensor, text: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the patches' terms alone, (B, N, C).

        Branches that share the text's softmax: their term is the difference that they make to
        plain attention to `text` (k and v), and an error where that is None.
        """
        ...


class EagerBranching:
    """The run of the patches at one site, where they have something to do."""

    __slots__ = ("_branches", "_dtype", "_run", "_site", "shared_softmax")

    def __init__(self, run: BoundStack, site: Site, branches: Branches, dtype: torch.dtype) -> None:
        self._run = run
        self._site = site
        self._branches = branches
        self._dtype = dtype
        self.shared_softmax = branches.shared_softmax > 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :class:`Branching`."""
        return self._run.attend(self._site, q, k, v, branches=self._branches_for(q))

    def terms(self, q: Tensor, text: tuple[Tensor, Tensor] | None) -> Tensor:
        """See :class:`Branching`."""
        if self.shared_softmax and text is None:
            raise ValueError(
                "shared_softmax: this image prompt shares the softmax of the text, which is not "
                f"plain at {self._site.layer.name} (a mask on the text, or another attention backend); "
                "expected plain attention there, or an image prompt with shared_softmax=False"
            )
        k, v = text or (None, None)
        terms = self._run.terms(self._site, q, k, v, branches=self._branches_for(q))
        assert terms is not None  # the site has branches
        return terms

    def _branches_for(self, q: Tensor) -> Branches | None:
        # None: a projection changed the dtype, so that the run must look again.
        return self._branches if q.dtype == self._dtype else None


class GraphBranching:
    """The same as operators in a graph that is being compiled.

    They look up the layer and the running call when they run: neither weights, windows, masks nor
    the images are part of the graph, so that changing them compiles nothing anew. Nor is the layer:
    its handle is an input of the graph, so that one graph serves all blocks that are alike. So no
    gradient gets through them: where one must, the graph breaks and the same runs eagerly.
    """

    __slots__ = ("_handle", "_trained", "shared_softmax")

    def __init__(self, handle: Tensor, shared_softmax: bool, trained: bool = False) -> None:
        self._handle = handle
        self._trained = trained
        self.shared_softmax = shared_softmax

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :class:`Branching`."""
        if self._trained or learns(q, k, v):
            return _attend_eagerly(q, k, v, self._handle)
        return torch.ops.attnpatch_diffusers.attend(q, k, v, self._handle)

    def terms(self, q: Tensor, text: tuple[Tensor, Tensor] | None) -> Tensor:
        """See :class:`Branching`."""
        k, v = (None, None) if text is None else text
        if self._trained or learns(q, k, v):
            return _terms_eagerly(q, k, v, self._handle)
        return torch.ops.attnpatch_diffusers.terms(q, k, v, self._handle)


WHY_EAGER = (
    "attach: a gradient goes through the patches' part of attention, which runs eagerly; compile "
    "without fullgraph=True, or run in torch.no_grad()"
)


def learns(*tensors: Tensor | None) -> bool:
    """Whether a gradient may be asked for by way of any of these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from q (B, H, N, D) to k and v (B, H, T, D); returns (B, N, C)."""
    return join_heads(F.scaled_dot_product_attention(q, k, v))


# The operators find a layer by a number, for a graph holds no Python objects.
_layers: weakref.WeakValueDictionary[int, PatchedLayer] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def register(layer: PatchedLayer) -> Tensor:
    """Return the handle by which graphs find `layer` while it lives: int64, of no dimensions.

    A number in a tensor, for torch.compile makes a graph for each plain number of a module.
    """
    number = next(_numbers)
    _layers[number] = layer
    return torch.tensor(number, device="cpu")


def registered(handle: Tensor) -> PatchedLayer | None:
    """Return the layer that `register` gave this handle, if it lives."""
    return _layers.get(int(handle))


def _running(handle: Tensor, q: Tensor) -> EagerBranching | None:
    layer = cast("CrossLayer | None", registered(handle))
    return None if layer is None else layer.branching(q.shape[2], q.dtype, q.device)


# Read at run time, so a recorded CUDA graph may not hold them.
TAGS = (torch.Tag.cudagraph_unsafe,) if hasattr(torch.Tag, "cudagraph_unsafe") else ()


def _attend_now(q: Tensor, k: Tensor, v: Tensor, handle: Tensor) -> Tensor:
    running = _running(handle, q)
    out = plain_attention(q, k, v) if running is None else running.attend(q, k, v)
    return out.contiguous()


def _terms_now(q: Tensor, k: Tensor | None, v: Tensor | None, handle: Tensor) -> Tensor:
    running = _running(handle, q)
    if running is None:
        return _new_output(q).zero_()
    text = None if k is None or v is None else (k, v)
    return running.terms(q, text).contiguous()


_attend = torch.library.custom_op(
    "attnpatch_diffusers::attend", _attend_now, mutates_args=(), tags=TAGS
)
_terms = torch.library.custom_op(
    "attnpatch_diffusers::terms", _terms_now, mutates_args=(), tags=TAGS
)
_attend_eagerly = torch.compiler.disable(_attend_now, reason=WHY_EAGER)
_terms_eagerly = torch.compiler.disable(_terms_now, reason=WHY_EAGER)


def _new_output(q: Tensor) -> Tensor:
    batch, heads, tokens, size = q.shape
    return q.new_empty((batch, tokens, heads * size))


@_attend.register_fake
@_terms.register_fake
def _(q: Tensor, k: object, v: object, handle: Tensor) -> Tensor:
    return _new_output(q)
