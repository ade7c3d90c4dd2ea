# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What happens before and after each call of a patched transformer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from attnpatch.engine import COND, UNCOND, BoundStack, Call
from attnpatch.hosts.diffusers.caches import check_row_caches
from attnpatch.hosts.diffusers.checkpointing import Checkpointing
from attnpatch.hosts.diffusers.running import Running, running_pipeline
from attnpatch.hosts.diffusers.running_call import Patched, samples_of
from attnpatch.hosts.diffusers.schedule import TimestepReader
from attnpatch.hosts.diffusers.transformer.negative_rows import add_negatives, first_rows
from attnpatch.hosts.diffusers.transformer.rows import rows_of_text
from attnpatch.hosts.diffusers.transformer.sequence import Family, Sequenced
from attnpatch.hosts.host_call import CondOrUncond, HostCall, Rows, told_rows

__all__ = ["TransformerCalls"]


class PatchedTransformer(Patched, Protocol):
    """What is attached to a transformer, as far as its calls ask."""

    run: BoundStack | None
    """The patches at work."""
    cond_or_uncond: CondOrUncond | None
    """What users told of the roles of rows."""
    checked: bool
    """Whether a call came by a patched layer."""

    @property
    def family(self) -> Family:
        """What is known of such transformers."""
        ...

    def take_over_again(self) -> None:
        """Add the patches to processors that others put in the place of ours."""
        ...


class TransformerCalls:
    """The beginning and the end of a patched transformer's calls.

    Parameters
    ----------
    model
        What is attached to the transformer.
    """

    def __init__(self, model: PatchedTransformer) -> None:
        self._model = model
        self._read_sigma = TimestepReader()

    def begin(self, model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Learn about the call that begins; return other arguments, or None: as they are."""
        if model.__dict__.get("_is_replica"):
            raise TypeError(
                "model: expected a transformer that is given whole batches, but DataParallel "
                "scatters their rows over devices; use one device, or DistributedDataParallel"
            )
        run, running = self._model.run, self._model.running
        running.run, running.reached = run, False
        self._model.take_over_again()
        arguments = _arguments(model, args, kwargs)
        sequence = self._model.family.sequence(model, arguments)
        pipeline = running_pipeline()
        rows = self._rows_of(pipeline, sequence, arguments)
        sigma: Any = None
        if run is not None and run.time_dependent:
            sigmas = self._sigmas(pipeline, sequence)
            sigma = sigmas[0] if len(sigmas) == 1 else sigmas
        running.call = _describe(run, sequence, rows, sigma)
        negative = None if run is None else run.negative_text(running.call)
        more = None
        if negative is not None:
            if arguments.get("kv_cache_mode") is not None:
                raise ValueError(
                    "negative: expected a call without a cache of references, where rows of a "
                    "negative text come beside, got one with it"
                )
            check_row_caches(model, negative.always)
            family = self._model.family
            more = add_negatives(arguments, sequence.batch, negative, family.text_masks)
            sequence = family.sequence(model, more)
            rows = _with_negatives(rows, negative.rows)
            if isinstance(sigma, tuple):
                sigma = (*sigma, *(sigma[row] for row in negative.rows))
            negatives = (-1,) * (sequence.batch - len(negative.rows)) + negative.rows
            described = _describe(run, sequence, rows, sigma)
            running.call = replace(described, negatives=negatives)
        if run is not None:
            names = {name for _, keys in sequence.attentions for name in keys.names}
            run.check_spans(running.call, tuple(sorted(names)))
            states = arguments.get("hidden_states", arguments.get("x"))
            states = states[0] if isinstance(states, list | tuple) else states
            if isinstance(states, torch.Tensor):
                run.prepare(running.call, states.dtype, states.device)
        running.checkpointing = Checkpointing(model, self._model)
        return None if more is None else ((), more)

    def end(self, model: Any, output: Any) -> Any:
        """Forget the call, and see once that it came by our layers; take out rows we added."""
        owner, running = self._model, self._model.running
        run, reached, call = running.run, running.reached, running.call
        running.run = running.call = None
        if running.checkpointing is not None:
            running.checkpointing.restore()
            running.checkpointing = None
        if output is None:  # it raised
            return None
        if not (reached or owner.checked) and owner.layers and run is not None:
            raise RuntimeError(
                f"attach: none of the {len(owner.layers)} patched attention layers of "
                f"{type(model).__name__} attended to {_sizes(call)} tokens in this call; something "
                "replaced its attention modules after attach, or adds or drops tokens"
            )
        owner.checked = True
        if call is None or not call.negatives:
            return None
        return first_rows(output, call.negatives.count(-1))

    def _rows_of(
        self, running: Running | None, sequence: Sequenced, arguments: Mapping[str, Any]
    ) -> Rows:
        batch, told = sequence.batch, self._model.cond_or_uncond
        if told is not None:
            sample = torch.empty(batch, 0, *sequence.grid, device="meta")
            pipeline = running.pipeline if running else None
            call = HostCall(sample, sequence.sigma, sequence.text, arguments, pipeline)
            return told_rows(told, call)
        rows = rows_of_text(running, sequence)
        if rows is not None:
            return rows
        run = self._model.run
        if run is not None and run.tells_roles_apart:
            runs = "no pipeline is running"
            if running is not None:
                runs = f"{type(running.pipeline).__name__} does not tell"
            raise ValueError(
                f"cond_or_uncond: expected to be told which of the {batch} rows of this call are "
                f"cond and which uncond, for {runs}; give attach or patch_model (0,) where all are "
                "cond, (1, 0) for the batches [uncond, cond] of classifier-free guidance, a role "
                "for each row, or a callable that gives it for a call; where one tensor is the "
                "text of both, give the pipeline a copy of it, tensor.clone(), as one of them"
            )
        return Rows.of_chunks((COND,), batch)

    def _sigmas(self, running: Running | None, sequence: Sequenced) -> tuple[float, ...]:
        """Return the share of noise, one number or one for each row; a GPU is not waited for.

        Pipelines loop over a tensor of timesteps, and hand over what they compute of one.
        """
        sigma = sequence.sigma
        step = None if running is None else running.local("t")
        if isinstance(sigma, Tensor) and sigma.device.type not in ("cpu", "meta"):
            scheduler = getattr(running and running.pipeline, "scheduler", None)
            steps = getattr(getattr(scheduler, "config", None), "num_train_timesteps", None)
            if isinstance(step, Tensor) and step.dim() == 0 and steps:
                return tuple(t / steps for t in self._read_sigma(step))
        return self._read_sigma(sigma)


def _describe(run: BoundStack | None, sequence: Sequenced, rows: Rows, sigma: Any) -> Call:
    return Call(
        latent=sequence.grid,
        batch=sequence.batch,
        chunks=rows.roles,
        samples=samples_of(run, rows, 1, rows.slots),
        slots=rows.slots,
        sigma=sigma,
        progress=_progress(sigma),
        attentions=sequence.attentions,
    )


def _sizes(call: Call | None) -> str:
    sequences = () if call is None else call.attentions
    return " or ".join(f"{queries.count} × {keys.count}" for queries, keys in sequences)


def _with_negatives(rows: Rows, added: Sequence[int]) -> Rows:
    """Return rows with those that have the negative text of some of them."""
    samples = rows.samples and (*rows.samples, *(rows.samples[row] for row in added))
    return Rows(
        roles=(*rows.roles, *(UNCOND for _ in added)),
        slots=(*rows.slots, *(rows.slots[row] for row in added)),
        samples=samples,
    )


def _progress(sigma: Any) -> Any:
    """Return how far sampling is: the share of noise that is gone, as start and end mean it."""
    if sigma is None:
        return None
    if isinstance(sigma, tuple):
        return tuple(_progress(value) for value in sigma)
    return min(max(1.0 - sigma, 0.0), 1.0)


def _arguments(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of a model by their names."""
    signature = _signature(type(model))
    bound = signature.bind(model, *args, **kwargs).arguments
    own = next(iter(signature.parameters))
    return {name: value for name, value in bound.items() if name != own}


@functools.lru_cache(maxsize=16)
def _signature(model_class: type[Any]) -> inspect.Signature:
    return inspect.signature(model_class.forward)
