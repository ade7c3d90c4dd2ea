# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The one place where all transformers of the host can be reached: its attention override."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attnpatch.engine import UNCOND, Call, JointLayer, Site, SiteAttention, TextGuides
from attnpatch.hosts.comfyui.optimized_attention import DEFAULTS, has_kernel
from attnpatch.hosts.comfyui.patched_model import PatchedModel
from attnpatch.hosts.comfyui.transformer.families import Family, Sequence
from attnpatch.hosts.comfyui.transformer.left_behind import LeftBehind
from attnpatch.hosts.comfyui.transformer.negative_rows import (
    add_negatives,
    with_padding,
    with_rows,
)

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
        given.pop("kwargs", None)
        network = getattr(executor.class_obj, "diffusion_model", executor.class_obj)
        batch = len(given["x"])
        running, given = self._read(network, given)
        call = running.call
        self._group.run.check_spans(call, running.sequence.keys.names)
        given["transformer_options"] = _told(given["transformer_options"], running)
        self._prepare(running, given)
        for name in bound.arguments:
            if name == "kwargs":
                bound.arguments[name] = {key: given[key] for key in bound.arguments[name]}
            else:
                bound.arguments[name] = given[name]
        output = executor(*bound.args, **bound.kwargs)
        if not running.reached:
            raise RuntimeError(
                f"{self._group.run.table.family}: none of its {len(self._group.run.table)} layers "
                "asked the attention override, so that patches did nothing; another pack may have "
                "replaced it, or the blocks"
            )
        return output[:batch] if call.negatives else output

    def _read(self, network: Any, given: dict[str, Any]) -> tuple[_Running, dict[str, Any]]:
        """Return what a call is, and its arguments with rows for a negative text."""
        family, run, x = self._family, self._group.run, given["x"]
        options = {**given["transformer_options"], "original_shape": x.shape}
        call = self._group.call(len(x), options)
        negative, refiners = run.negative_text(call), family.count_refiners(network)
        if negative is None:
            return _Running(call, family.sequence(network, given), refiners), given
        own = family.own_text(network, given)
        added = add_negatives(
            own,
            negative,
            text=family.text,
            least=family.least_text(network),
            last=family.follows_text,
            multiple=getattr(network, "pad_tokens_multiple", None) or 1,
        )
        sequence = family.sequence(network, added.arguments)
        longer = added.arguments[family.text].shape[1] - own[family.text].shape[1]
        behind = None
        if longer and family.left_behind is not None:
            behind = family.left_behind(network, sequence, longer)
        first = sequence.prompt
        hidden = tuple((first + start, first + stop) for start, stop in added.hidden)
        if hidden:
            tokens = with_padding(sequence.queries, first, added.own)
            sequence = replace(sequence, queries=tokens, keys=tokens)
        call = with_rows(call, negative.rows, hidden)
        return _Running(call, sequence, refiners, behind), added.arguments

    def _prepare(self, running: _Running, given: dict[str, Any]) -> None:
        """Make what the layers will read, before the network runs."""
        call, sequence, x = running.call, running.sequence, given["x"]
        guides: TextGuides | None = None
        for layer in self._group.run.table:
            acting = self._group.run.at(Site(layer, call, sequence.queries, sequence.keys))
            if acting is not None:
                acting.prepare(sequence.keys.count, x.dtype, x.device)
                guides = guides or acting.guides
        if guides is not None:
            # In cross-attention the layers project negative texts after the text of the call.
            text = given[self._family.text]
            more = guides.context(text.dtype, text.device)
            if more.shape[2:] != text.shape[2:]:
                raise ValueError(
                    f"negative: expected text embeddings of {text.shape[2]} channels, as this "
                    f"model's, got {more.shape[2]}"
                )
            given[self._family.text] = torch.cat([text, more.expand(len(text), -1, -1)], dim=1)
            running.more = guides.tokens

    def __deepcopy__(self, memo: dict[int, Any]) -> TransformerWrapper:
        return self


class _Running:
    """The call that is running, and the layers that it has come by."""

    __slots__ = ("behind", "call", "more", "reached", "refiners", "sequence")

    def __init__(
        self, call: Call, sequence: Sequence, refiners: int, behind: LeftBehind | None = None
    ) -> None:
        self.behind = behind
        """What a longer text moves prompt and image away from."""
        self.call = call
        self.sequence = sequence
        self.reached = 0
        self.refiners = refiners
        """Layers still to come in which the text attends to itself."""
        self.more = 0
        """Keys after those of the sequence, of texts that patches bring."""

    def hidden(self, q: Tensor, k: Tensor) -> Tensor | None:
        """Return the mask (rows, 1, keys) of a layer in which the text attends to itself.

        None: this is none, or nothing is hidden from its rows.
        """
        tokens = self.sequence.refined
        if not self.refiners or (len(q), q.shape[2], k.shape[2]) != (
            self.call.batch,
            tokens,
            tokens,
        ):
            return None
        self.refiners -= 1
        if not self.call.hidden:
            return None
        mask = q.new_zeros(len(q), 1, k.shape[2])
        for row, (start, stop) in enumerate(self.call.hidden):
            mask[row, :, start:stop] = torch.finfo(q.dtype).min
        return mask

    def __deepcopy__(self, memo: dict[int, Any]) -> _Running:
        return self


def _told(options: Mapping[str, Any], running: _Running) -> dict[str, Any]:
    """Return the options of a call, in which its rows and what they are stand."""
    made = {**options, _CALL: running}
    roles, rows = made.get("cond_or_uncond"), running.call.negatives.count(-1)
    added = len(running.call.negatives) - rows
    if roles and added and added % (each := rows // len(roles)) == 0:
        more = [running.call.negatives[rows + first] // each for first in range(0, added, each)]
        made["cond_or_uncond"] = [*roles, *(UNCOND for _ in more)]
        if made.get("uuids"):
            made["uuids"] = [*made["uuids"], *(made["uuids"][chunk] for chunk in more)]
    return made


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
        running: _Running | None = options.get(_CALL)
        given = q, k, v
        if not skip_reshape:
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in given)
        if running is not None and running.behind is not None:
            q, k = running.behind.follow(q, k)
            given, skip_reshape = (q, k, v), True
        acting = None if running is None else self._acting(running, options, q, k)
        if running is None or acting is None:
            hidden = None if running is None else running.hidden(q, k)
            if hidden is not None:
                mask = hidden if mask is None else _both(mask, hidden)
            return self._host(
                *(func, *given, heads, mask, attn_precision, skip_reshape, skip_output_reshape),
                **kwargs,
            )
        more = None
        if running.more:
            count = k.shape[2] - running.more
            more = k[:1, :, count:], v[:1, :, count:]
            k, v = k[:, :, :count], v[:, :, :count]

        def host_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = self._host(func, q, k, v, heads, mask, attn_precision, True, False, **kwargs)
            return out.unflatten(-1, (heads, -1)).transpose(1, 2)

        as_usual = mask is None and self.previous is None and kwargs.get("scale") is None
        default = getattr(func, "__name__", "") in DEFAULTS
        out = acting.attend(
            *(q, k, v, host_attention),
            is_softmax=as_usual and default and has_kernel(q.device.type),
            more=more,
        )
        return out if skip_output_reshape else out.transpose(1, 2).flatten(2)

    def _acting(
        self, running: _Running, options: Mapping[str, Any], q: Tensor, k: Tensor
    ) -> SiteAttention | None:
        """Return what patches do where q and k (rows, heads, tokens, size) meet; None: nothing."""
        sequence = running.sequence
        counts = q.shape[2], k.shape[2] - running.more
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
        if q.shape[2] == k.shape[2] and layer.block == "":
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


def _both(mask: Tensor, hidden: Tensor) -> Tensor:
    """Return a host's mask, boolean or of what is added to scores, with one of ours."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill_(~mask, hidden.min())
    return mask + (hidden[:, None] if mask.dim() == 4 else hidden)
