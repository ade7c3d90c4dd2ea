# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""One layer of joint attention of a patched transformer, and what the patches do there now."""

from __future__ import annotations

import functools
import logging
from typing import Any

from torch import Tensor

from attnpatch.engine import JointLayer, MoreKeys, Site, SiteAttention
from attnpatch.hosts.diffusers.processor_slot import ProcessorSlot, layer_of
from attnpatch.hosts.diffusers.running_call import Patched
from attnpatch.hosts.diffusers.skipping import scores_are_skipped
from attnpatch.hosts.diffusers.transformer.processor import (
    PatchedProcessor,
    check_processor,
    make_patched_processor,
)

__all__ = ["PatchedJointLayer"]

logger = logging.getLogger("attnpatch")

# Attention kernels that take some sizes of heads alone: there torch's own serves wider heads.
_FIXED_SIZES = ("sage", "_sage", "flash_4", "aiter")


class PatchedJointLayer(ProcessorSlot):
    """One layer of joint attention of a patched transformer.

    Parameters
    ----------
    patched
        What is attached to the transformer.
    layer
        The layer, in the transformer's table.
    module
        Its attention module.
    """

    trained = reduces = shares_softmax = degraded = guides_text = False

    def __init__(self, patched: Patched, layer: JointLayer, module: Any) -> None:
        super().__init__(module)
        self.patched = patched
        self.layer = layer

    def check(self) -> None:
        """Raise TypeError where the module's processor can not be stood in for."""
        if layer_of(self.module.processor) is None:
            check_processor(self.module.processor)

    def make_processor(self, original: Any) -> PatchedProcessor:
        """Return a processor of ours that stands in for this one."""
        return make_patched_processor(original, self)

    def begin(self, processor: PatchedProcessor) -> bool:
        """Whether the patches may do something in the call that is running."""
        running = self.patched.running
        if processor is not self.patched_processor or running.call is None:
            return False
        return running.run is not None

    def acting(self, queries: int, keys: int | None = None) -> SiteAttention | None:
        """Return what the patches do for so many queries and keys; None: nothing."""
        running = self.patched.running
        call, run = running.call, running.run
        if call is None or run is None or keys is None:
            return None
        for asking, answering in call.attentions:
            if (asking.count, answering.count) == (queries, keys):
                running.reached = True
                return run.at(Site(self.layer, call, asking, answering))
        return None

    def attend(
        self,
        acting: SiteAttention | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        more: MoreKeys | None = None,
    ) -> Tensor:
        """Attend from q (batch, heads, tokens, size), in a graph that runs; no more keys come."""
        del acting, more
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return self.dispatch(q, k, v, mask, {}).transpose(1, 2)

    def dispatch(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        """Attend from q (batch, tokens, heads, size) to k and v, as the patches have it."""
        backend, running = self._backend, self.patched.running
        if options.get("parallel_config") is not None and running.run is not None:
            raise ValueError(
                "attach: expected whole sequences where patches act, but context parallelism "
                "splits them over devices; turn it off, or take the patches off"
            )
        acting = self.acting(q.shape[1], k.shape[1])
        if acting is None or scores_are_skipped():
            return _host_dispatch(q, k, v, mask, options, backend)
        attention = functools.partial(_host_attention, mask=mask, options=options, backend=backend)
        as_usual = mask is None and not options.get("is_causal") and not options.get("dropout_p")
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = acting.attend(
            *(q, k, v, attention),
            is_softmax=as_usual and _is_torch(backend),
            takes_scale=True,
            scale=options.get("scale"),
        )
        return out.transpose(1, 2)

    @property
    def _backend(self) -> Any:
        """The attention kernel that the user chose for this layer; None: none."""
        processor = self.module.processor
        original = getattr(processor, "attnpatch_original", processor)
        return getattr(original, "_attention_backend", None)


def _host_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None,
    options: dict[str, Any],
    backend: Any,
    scale: float | None = None,
) -> Tensor:
    """Attend from q (batch, heads, tokens, size) with the kernel that the user chose."""
    name = _name(backend)
    if scale is not None and name.startswith(_FIXED_SIZES):
        _tell_once(name)
        backend = "native"
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    options = {**options, "scale": options.get("scale") if scale is None else scale}
    return _host_dispatch(q, k, v, mask, options, backend).transpose(1, 2)


def _host_dispatch(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: dict[str, Any], backend: Any
) -> Tensor:
    # Imported here: with a backend of its own diffusers loads what that needs.
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=backend, **options)


def _name(backend: Any) -> str:
    """Return the name of the attention kernel that serves where a layer has this backend."""
    if backend is None:
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry

        backend = _AttentionBackendRegistry.get_active_backend()[0]
    return str(getattr(backend, "value", backend))


def _is_torch(backend: Any) -> bool:
    """Whether torch's own attention serves, so that another of the same result may."""
    return _name(backend) == "native"


@functools.lru_cache(maxsize=16)
def _tell_once(name: str) -> None:
    logger.warning(
        "attach: the attention backend %s takes some sizes of heads alone; where a key gain acts, "
        "torch's own serves",
        name,
    )
