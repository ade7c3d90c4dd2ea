# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The one place where all transformers of the host can be reached: its attention override."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from attnpatch.engine import Call, JointLayer, Site, SiteAttention
from attnpatch.hosts.comfyui.optimized_attention import DEFAULTS, has_kernel
from attnpatch.hosts.comfyui.patched_model import PatchedModel
from attnpatch.hosts.comfyui.transformer.families import Family, Sequence

__all__ = ["OVERRIDE", "AttentionOverride", "TransformerWrapper"]

OVERRIDE = "optimized_attention_override"
_CALL = "attnpatch_sequence"

Override = Callable[..., Tensor]


class TransformerWrapper:
    """Stands around each call of the network, and tells its layers what their tokens are.

    Parameters
    ----------
    group
        What the patches are, bound to the network's layers.
    family
        Of the network.
    """

    def __init__(self, group: PatchedModel, family: Family) -> None:
        self._group = group
        self._family = family

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the network; the host calls it."""
        bound = inspect.signature(executor.original).bind(*args, **kwargs)
        given = {**bound.arguments, **bound.arguments.get("kwargs", {})}
        sequence = self._family.sequence(executor.class_obj, given)
        options = dict(given["transformer_options"])
        shape = given["x"].shape
        call = self._group.call(len(given["x"]), {**options, "original_shape": shape})
        self._group.run.check_spans(call, sequence.keys.names)
        running = options[_CALL] = _Running(call, sequence)
        if "transformer_options" in bound.arguments:
            bound.arguments["transformer_options"] = options
        else:
            bound.arguments["kwargs"] = {
                **bound.arguments["kwargs"],
                "transformer_options": options,
            }
        self._prepare(call, sequence, given["x"])
        output = executor(*bound.args, **bound.kwargs)
        if not running.reached:
            raise RuntimeError(
                f"{self._group.run.table.family}: none of its {len(self._group.run.table)} layers "
                "asked the attention override, so that patches did nothing; another pack may have "
                "replaced it, or the blocks"
            )
        return output

    def _prepare(self, call: Any, sequence: Sequence, x: Tensor) -> None:
        """Make what the layers will read, before the network runs."""
        for layer in self._group.run.table:
            acting = self._group.run.at(Site(layer, call, sequence.queries, sequence.keys))
            if acting is not None:
                acting.prepare(sequence.keys.count, x.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> TransformerWrapper:
        return self


class _Running:
    """The call that is running, and the layers that it has come by."""

    __slots__ = ("call", "reached", "sequence")

    def __init__(self, call: Call, sequence: Sequence) -> None:
        self.call = call
        self.sequence = sequence
        self.reached = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _Running:
        return self


class AttentionOverride:
    """Attention as the patches have it, in the layers that they know; else as it was.

    Parameters
    ----------
    group
        What the patches are, bound to the network's layers.
    previous
        The override that stood there; None: none did.
    """

    def __init__(self, group: PatchedModel, previous: Override | None) -> None:
        self.group = group
        self.previous = previous
        self._layers: dict[tuple[Any, Any], JointLayer] = {
            (layer.block, layer.number): layer
            for layer in group.run.table
            if isinstance(layer, JointLayer)
        }
        self._in_order = tuple(self._layers.values())

    def __deepcopy__(self, memo: dict[int, Any]) -> AttentionOverride:
        return self

    def __call__(
        self,
        func: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        attn_precision: Any = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """Attend; the host calls it in the place of its own attention, `func`."""
        options: Mapping[str, Any] = kwargs.get("transformer_options") or {}
        acting = self._acting(options, q, k, skip_reshape)
        if acting is None:
            return self._host(
                *(func, q, k, v, heads, mask, attn_precision, skip_reshape, skip_output_reshape),
                **kwargs,
            )
        if not skip_reshape:
            q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))

        def host_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = self._host(func, q, k, v, heads, mask, attn_precision, True, False, **kwargs)
            return out.unflatten(-1, (heads, -1)).transpose(1, 2)

        as_usual = mask is None and self.previous is None and kwargs.get("scale") is None
        default = getattr(func, "__name__", "") in DEFAULTS
        out = acting.attend(
            *(q, k, v, host_attention),
            is_softmax=as_usual and default and has_kernel(q.device.type),
        )
        return out if skip_output_reshape else out.transpose(1, 2).flatten(2)

    def _acting(
        self, options: Mapping[str, Any], q: Tensor, k: Tensor, skip_reshape: bool
    ) -> SiteAttention | None:
        running: _Running | None = options.get(_CALL)
        if running is None:
            return None
        sequence = running.sequence
        tokens = 2 if skip_reshape else 1
        counts = q.shape[tokens], k.shape[tokens]
        fits = counts == (sequence.queries.count, sequence.keys.count)
        layer = self._layers.get((options.get("block_type", ""), options.get("block_index")))
        if "block_index" not in options and fits and running.reached < len(self._layers):
            # Older hosts do not say which block it is: they come by them in order.
            layer = self._in_order[running.reached]
        if layer is None:
            return None
        if fits:
            running.reached += 1
            return self.group.run.at(Site(layer, running.call, sequence.queries, sequence.keys))
        if counts[0] == counts[1] and layer.block == "":
            return None  # the image's attention to itself
        raise ValueError(
            f"{self.group.run.table.family}: expected {sequence.queries.count} tokens at "
            f"{layer.name} ({', '.join(sequence.queries.names)}) and {sequence.keys.count} keys, "
            f"got {counts[0]} and {counts[1]}: another patch adds or drops some"
        )

    def _host(
        self,
        func: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None,
        attn_precision: Any,
        skip_reshape: bool,
        skip_output_reshape: bool,
        **kwargs: Any,
    ) -> Tensor:
        first: tuple[Any, ...] = (func,)
        call: Callable[..., Tensor] = func
        if self.previous is not None:
            call = self.previous
        else:
            first = ()
        return call(
            *first,
            *(q, k, v, heads),
            mask=mask,
            attn_precision=attn_precision,
            skip_reshape=skip_reshape,
            skip_output_reshape=skip_output_reshape,
            **kwargs,
        )
