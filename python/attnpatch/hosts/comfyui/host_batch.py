# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The batches that a host makes of conditionings, noted before any wrapper sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attnpatch.hosts.comfyui.compiled import without_blind_graphs
from attnpatch.hosts.comfyui.options import SAMPLING
from attnpatch.hosts.comfyui.roles import ROLES, STEP, Step, roles_of
from attnpatch.hosts.comfyui.windows import shown_part, shown_samples
from attnpatch.patches import Area

__all__ = ["BATCH", "CalcCondBatchWrapper", "HostBatch", "areas_of", "texts_of"]

BATCH = "attnpatch_batch"
"""Where the options of a call hold the batch as the host made it."""


@dataclass(frozen=True)
class HostBatch:
    """One batch of conditionings, as the host made it.

    Parameters
    ----------
    input
        (rows, C, H, W): in equal chunks, one for each conditioning.
    roles
        Of each chunk.
    conditioning
        What the model's function is given beside it, by name.
    canvas
        Height and width of the whole latent.
    areas
        Where on that each chunk is; None: it is all of it.
    texts
        How many tokens the text of each has; the host repeats them until all are equally long.
        Empty: not known.
    samples
        Which samples the rows of a chunk show; None: all, in order.
    """

    input: Tensor
    roles: tuple[int, ...]
    conditioning: Mapping[str, Any]
    canvas: tuple[int, int]
    areas: tuple[Area | None, ...]
    texts: tuple[int, ...] = ()
    samples: tuple[int, ...] | None = None

    @property
    def each(self) -> int:
        """Rows of a chunk."""
        return len(self.input) // len(self.roles)


@dataclass(frozen=True)
class BatchMarker:
    """Wraps the model's function outside of all other wrappers: notes the batch in its options.

    Parameters
    ----------
    canvas
        Height and width of the whole latent.
    part
        Where on that the latents of the batch are; None: they are all of it.
    areas
        Where on that a conditioning acts, by its number and its ``uuid``: the host gives one for an
        area of cond to uncond too.
    texts
        How many tokens the text of a conditioning has, by its number and its ``uuid``.
    roles
        Of conditionings by number, where they are not those numbers.
    step
        That is running; None: not known.
    retained
        Places of all windows that show what stands there in the whole.
    sampling
        The ``model_sampling`` of the model that is called; None: not known.
    wrapped
        What would have wrapped the model's function without it.
    """

    canvas: tuple[int, int]
    part: Area | None
    areas: Mapping[tuple[int, Any], Area]
    texts: Mapping[tuple[int, Any], int]
    roles: Mapping[int, int]
    step: Step | None
    retained: Sequence[int]
    sampling: Any
    wrapped: Callable[..., Tensor] | None

    def __call__(self, function: Callable[..., Tensor], args: Mapping[str, Any]) -> Tensor:
        """Call the model as the host would have."""
        conditioning = dict(args["c"])
        options = dict(conditioning.get("transformer_options", {}))
        numbers = tuple(args["cond_or_uncond"])
        roles = tuple(self.roles.get(number, number) for number in numbers)
        if roles != numbers:
            options[ROLES] = self.roles
        sources = tuple(zip(numbers, options.get("uuids") or (None,) * len(numbers), strict=True))
        areas = tuple(self.areas.get(source, self.part) for source in sources)
        known = all(source in self.texts for source in sources)
        texts = tuple(self.texts[source] for source in sources) if known else ()
        x = args["input"]
        shown = shown_samples(options, len(x) // len(numbers), self.retained)
        options[BATCH] = HostBatch(x, roles, args["c"], self.canvas, areas, texts, shown)
        if self.step is not None:
            options[STEP] = self.step
        if self.sampling is not None:
            options[SAMPLING] = self.sampling
        conditioning["transformer_options"] = without_blind_graphs(options)
        if self.wrapped is None:
            return function(x, args["timestep"], **conditioning)
        return self.wrapped(function, {**args, "c": conditioning})


class CalcCondBatchWrapper:
    """Stands around each batching of conditionings: says what the host's batches are."""

    def __call__(
        self,
        execute: Callable[..., Any],
        model: Any,
        conds: Any,
        x: Tensor,
        timestep: Any,
        options: Any,
    ) -> Any:
        """Batch the conditionings as the host would have."""
        latent = int(x.shape[-2]), int(x.shape[-1])
        retained = getattr(options.get("context_handler"), "latent_retain_index_list", ())
        step: Step | None = options.get(STEP)
        canvas = latent if step is None else step.latent
        part = shown_part(options.get("transformer_options", {}), x.shape, canvas, retained)
        canvas = latent if part is None else canvas
        areas: dict[tuple[int, Any], Area] = {}
        texts: dict[tuple[int, Any], int] = {}
        for number, entries in enumerate(conds):
            areas |= {(number, at): area for at, area in areas_of(entries or (), latent).items()}
            texts |= {(number, at): count for at, count in texts_of(entries or ()).items()}
        if part is not None:
            areas = {source: _moved_by(area, part) for source, area in areas.items()}
        marker = BatchMarker(
            *(canvas, part, areas, texts, roles_of(conds, options), step, retained),
            getattr(model, "model_sampling", None),
            options.get("model_function_wrapper"),
        )
        options = {**options, "model_function_wrapper": marker}
        return execute(model, conds, x, timestep, options)

    def __deepcopy__(self, memo: dict[int, Any]) -> CalcCondBatchWrapper:
        """Share it: it holds nothing."""
        return self


def areas_of(conds: Sequence[Mapping[str, Any]], latent: tuple[int, int]) -> dict[Any, Area]:
    """Return where on the latent each conditioning acts, for those that have an area."""
    areas = {}
    for entry in conds:
        area = entry.get("area")
        if area is None or "uuid" not in entry or isinstance(area[0], str):
            continue
        count = len(area) // 2
        height, width = area[count - 2 : count]
        top, left = area[-2:]
        height, width = min(height, latent[0] - top), min(width, latent[1] - left)
        areas[entry["uuid"]] = Area(top, left, height, width)
    return areas


def _moved_by(area: Area, part: Area) -> Area:
    """Return where on the whole latent an area of a part of it is."""
    return area._replace(top=part.top + area.top, left=part.left + area.left)


def texts_of(conds: Sequence[Mapping[str, Any]]) -> dict[Any, int]:
    """Return how many tokens the text of each conditioning has, for those that have one."""
    texts = {}
    for entry in conds:
        text = getattr(entry.get("model_conds", {}).get("c_crossattn"), "cond", None)
        if isinstance(text, Tensor) and text.dim() == 3 and entry.get("uuid") is not None:
            texts[entry["uuid"]] = text.shape[1]
    return texts
