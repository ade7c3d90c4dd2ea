# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows a wrapper of the model's function made of the rows that a host gave it.

Hosts batch conditionings and say of what role each chunk is. What wraps the model's function may
cut the pictures into tiles, join tiles of several places in one call, or split the batch, and says
nothing of it. But what it hands over was cut out of what it was given, and shows from where.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnpatch.engine import Crop
from attnpatch.hosts.comfyui.host_batch import BATCH, HostBatch
from attnpatch.hosts.host_call import HostCall, Rows, told_rows
from attnpatch.patches import Area

__all__ = ["ROWS", "ApplyModelWrapper", "JoinedRows", "joined_rows"]

ROWS = "attnpatch_rows"
"""Where the options of a call hold what its rows are, if they are not the host's batch."""


class JoinedRows(NamedTuple):
    """The rows of a call, and the rows of the host's batch that they were made of."""

    rows: Rows
    outer: tuple[int, ...] | None
    """None: a user told what they are."""
    each: int = 1
    """Rows of a chunk of that batch."""


class ApplyModelWrapper:
    """Stands around each call of the model: says what its rows are, where the host's are others.

    Parameters
    ----------
    strict
        Whether an error is wanted where nobody can say.
    told
        What a user tells of a call; None: nothing.
    """

    def __init__(self, strict: bool, told: Callable[[HostCall], Sequence[int]] | None) -> None:
        self._strict = strict
        self._told = told

    def __call__(self, execute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the model with options that say what its rows are."""
        arguments = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
        given = arguments.get("transformer_options") or {}
        rows = self._rows(arguments, given)
        options = _innermost(given)
        if rows is not None:
            options = {**options, ROWS: rows}
        if options is given:
            return execute(*args, **kwargs)
        index = _ARGUMENTS.index("transformer_options")
        if len(args) > index:
            return execute(*args[:index], options, *args[index + 1 :], **kwargs)
        return execute(*args, **{**kwargs, "transformer_options": options})

    def _rows(self, arguments: dict[str, Any], options: Mapping[str, Any]) -> JoinedRows | None:
        x, batch = arguments["x"], options.get(BATCH)
        if self._told is not None:
            call = HostCall(x, arguments.get("t"), arguments.get("c_crossattn"), options)
            return JoinedRows(told_rows(self._told, call), None)
        return None if batch is None else joined_rows(batch, x, arguments, strict=self._strict)

    def __deepcopy__(self, memo: dict[int, Any]) -> ApplyModelWrapper:
        """Share it: it never changes."""
        return self


def _innermost(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options in which no other wrapper stands between ours and the network.

    Others may answer for the network, as caches do, and count the host's rows.
    """
    wrappers = options.get("wrappers", {})
    around = wrappers.get("diffusion_model", {})
    if "attnpatch" not in around or next(reversed(around)) == "attnpatch":
        return options
    ours = {"attnpatch": around["attnpatch"]}
    others = {key: these for key, these in around.items() if key not in ours}
    return {**options, "wrappers": {**wrappers, "diffusion_model": {**others, **ours}}}


_ARGUMENTS = ("x", "t", "c_concat", "c_crossattn", "control", "transformer_options")


def joined_rows(
    batch: HostBatch, x: Tensor, conditioning: Mapping[str, Any], *, strict: bool = True
) -> JoinedRows | None:
    """Return what the rows of a call are.

    Parameters
    ----------
    batch
        As the host made it.
    x
        What the model is called with, (rows, C, h, w).
    conditioning
        What it is given beside it, by the names of the batch.
    strict
        Whether rows that were not cut out of the batch are an error.

    Returns
    -------
    JoinedRows or None
        None: they are the rows of the batch.

    Raises
    ------
    ValueError
        Where rows were not cut out of the batch; the message names ``cond_or_uncond``.
    """
    same = x.shape == batch.input.shape
    if same and not _moved(batch, x, conditioning):
        return None if not any(batch.areas) else _of_batch(batch)
    places = _find_rows(batch, x, conditioning)
    if places is None:
        if same or not strict:  # a wrapper changed the latents, which leaves the order
            return None if not any(batch.areas) else _of_batch(batch)
        raise ValueError(
            f"cond_or_uncond: expected rows that are cut out of the {len(batch.input)} rows "
            f"{batch.roles} of {tuple(batch.input.shape[2:])} that the host batched, got "
            f"{len(x)} rows of {tuple(x.shape[2:])} that are not, so that nobody tells which are "
            "cond and which uncond; give patch_model a callable that does"
        )
    return _rows(batch, places, tuple(x.shape[-2:]))


class _Place(NamedTuple):
    """Where a row was cut out of the batch."""

    row: int
    top: int
    left: int


def _moved(batch: HostBatch, x: Tensor, conditioning: Mapping[str, Any]) -> bool:
    """Whether rows of the same shape may stand in another order than the host's.

    Most wrappers hand over the very same tensors: then no device is waited for.
    """
    pairs = [(x, batch.input)]
    pairs += [(conditioning.get(name), theirs) for name, theirs in batch.conditioning.items()]
    return any(
        ours is not theirs
        and isinstance(ours, Tensor)
        and isinstance(theirs, Tensor)
        and ours.shape == theirs.shape
        and not torch.equal(ours, theirs)
        for ours, theirs in pairs
    )


def _of_batch(batch: HostBatch) -> JoinedRows:
    places = [_Place(row, 0, 0) for row in range(len(batch.input))]
    return _rows(batch, places, tuple(batch.input.shape[-2:]))


def _rows(batch: HostBatch, places: Sequence[_Place], latent: tuple[int, int]) -> JoinedRows:
    """Describe rows by where they were cut out."""
    shown = batch.samples or range(batch.each)
    samples = tuple(shown[place.row % batch.each] for place in places)
    crops = []
    latents: dict[tuple[object, ...], int] = {}
    slots = []
    for place, sample in zip(places, samples, strict=True):
        area = batch.areas[place.row // batch.each] or Area(0, 0, *batch.canvas)
        top = (area.top + place.top) % batch.canvas[0]  # what wraps goes on at the other side
        left = (area.left + place.left) % batch.canvas[1]
        whole = latent == batch.canvas and (top, left) == (0, 0)
        crops.append(None if whole else Crop(top, left, batch.canvas))
        slots.append(latents.setdefault((sample, top, left), len(latents)))
    roles = tuple(batch.roles[place.row // batch.each] for place in places)
    rows = Rows(roles, tuple(slots), samples, tuple(crops))
    return JoinedRows(rows, tuple(place.row for place in places), batch.each)


def _find_rows(batch: HostBatch, x: Tensor, conditioning: Mapping[str, Any]) -> list[_Place] | None:
    """Return where each row was cut out; None: some were not."""
    seen: Counter[tuple[_Place, ...]] = Counter()
    chosen = []
    for row, part in enumerate(x):
        places = _places(batch.input, part)
        told = [p for p in places if _same_conditioning(batch, conditioning, p.row, row, len(x))]
        places = told or places
        if not places or len({place[1:] for place in places}) > 1:
            return None
        # Rows that nothing tells apart come in the order of the host's.
        key = tuple(places)
        chosen.append(places[seen[key] % len(places)])
        seen[key] += 1
    return chosen


def _places(whole: Tensor, part: Tensor) -> list[_Place]:
    """Return where a part (C, h, w) stands in any of the rows (rows, C, H, W), which may wrap."""
    if part.shape == whole.shape[1:]:
        return [
            _Place(row, 0, 0) for row, candidate in enumerate(whole) if torch.equal(candidate, part)
        ]
    if part.dim() != 3 or whole.dim() != 4 or part.shape[0] != whole.shape[1]:
        return []
    height, width = part.shape[1:]
    rows, columns = whole.shape[2:]
    if height > rows or width > columns:
        return []
    wrapped = torch.cat([whole, whole[:, :, : height - 1]], 2) if height > 1 else whole
    wrapped = torch.cat([wrapped, wrapped[..., : width - 1]], 3) if width > 1 else wrapped
    corners = wrapped[..., :rows, :columns] == part[:, :1, :1]
    return [
        _Place(row, top, left)
        for row, top, left in corners.all(1).nonzero().tolist()
        if torch.equal(wrapped[row, :, top : top + height, left : left + width], part)
    ]


def _same_conditioning(
    batch: HostBatch, conditioning: Mapping[str, Any], outer: int, inner: int, rows: int
) -> bool:
    """Whether a row of a call has the conditioning of a row of the batch."""
    for name, theirs in batch.conditioning.items():
        ours = conditioning.get(name)
        if not isinstance(theirs, Tensor) or not isinstance(ours, Tensor):
            continue
        if len(theirs) != len(batch.input) or len(ours) != rows:
            continue
        if theirs.shape[1:] == ours.shape[1:] and not torch.equal(theirs[outer], ours[inner]):
            return False
    return True
