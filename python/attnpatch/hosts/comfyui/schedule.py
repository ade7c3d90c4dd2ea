# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Where sampling stands, by the sigma of a call and the model's own schedule."""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from attnpatch.engine import SamplingPoint
from attnpatch.engine.cache import Cache
from attnpatch.hosts.comfyui.options import SAMPLING
from attnpatch.hosts.comfyui.patched_model import ExtraOptions

_STEPS = 32  # of the table in which the search for a percent begins
_SEARCH = 8  # further looks, every other one at the middle of what is left
_EDGE = 1e-9  # the first and last percent that are no special case: 0 and 1 mean "always"
_LAST_TIMESTEP = 999.0


class SigmaSchedule:
    """Tells progress, sigma and timestep of a call.

    Parameters
    ----------
    model
        The host's ``BaseModel``, for calls that do not tell of their own. Its ``model_sampling`` is
        looked up in every step, for a node may replace it after ours.
    marks
        The starts and ends of patches: there progress is exact.
    """

    early = True

    def __init__(self, model: Any, marks: Iterable[float] = ()) -> None:
        self._model = model
        self._marks = frozenset(marks)
        self._schedules = Cache(size=4)  # clones may have models of their own, and devices
        self._read: tuple[Tensor, int | None, tuple[float, ...]] | None = None
        self._latest: tuple[Schedule, tuple[float, ...], tuple[SamplingPoint, ...]] | None = None

    def __call__(self, options: ExtraOptions) -> tuple[SamplingPoint, ...]:
        """Return the point of a call, or one for each sample; without sigmas none is told."""
        tensor = options.get("sigmas")
        if tensor is None:
            return (SamplingPoint(),)
        schedule, sigmas = self._schedule_now(options.get(SAMPLING)), self._sigmas(tensor)
        latest = self._latest  # one read: another thread may put a new one at any time
        if latest is None or latest[0] is not schedule or latest[1] != sigmas:
            latest = self._latest = (schedule, sigmas, tuple(map(schedule, sigmas)))
        return latest[2]

    def _schedule_now(self, sampling: Any) -> Schedule:
        if sampling is None:
            model = self._model
            sampling = getattr(model, "model_sampling", None) or model.predictor  # as Forge says
        # It is kept beside its schedule, so that another one can not be taken for it.
        made: tuple[Any, Schedule] = self._schedules.get(
            id(sampling), lambda: (sampling, Schedule(sampling, self._marks))
        )
        return made[1]

    def _sigmas(self, sigmas: Tensor | float) -> tuple[float, ...]:
        """Return the sigmas of a call: one, or one for each sample where they differ.

        A device is waited for once a tensor: a step has one.
        """
        if not isinstance(sigmas, Tensor):
            return (float(sigmas),)
        version = None if sigmas.is_inference() else sigmas._version
        # The tensor is kept, so that another one can not be taken for it.
        latest = self._read
        if latest is None or latest[0] is not sigmas or latest[1] != version or sigmas.is_cpu:
            numbers = sigmas.reshape(-1).tolist()
            numbers = tuple(map(float, numbers if len(set(numbers)) > 1 else numbers[:1]))
            latest = self._read = (sigmas, version, numbers)
        return latest[2]


class Schedule:
    """Progress and timestep of a sigma: percents, read backwards.

    A patch with start and end is meant to act while ``percent_to_sigma(end) <= sigma <=
    percent_to_sigma(start)``. Comparing progress with start and end comes to the same.

    Parameters
    ----------
    sampling
        The host's ``model_sampling``, with ``percent_to_sigma`` and ``timestep``. It is copied to
        the CPU, so that asking it waits for no device.
    marks
        The percents that are compared with.
    """

    def __init__(self, sampling: Any, marks: Iterable[float] = ()) -> None:
        if isinstance(sampling, torch.nn.Module):
            sampling = copy.deepcopy(sampling).cpu()
        self._sampling = sampling
        self._points: list[float] = []
        self._sigmas: list[float] = []
        self._exact: dict[float, float] = {}
        if hasattr(sampling, "percent_to_sigma"):
            between = [step / _STEPS for step in range(1, _STEPS)]
            marks = [mark for mark in marks if 0 <= mark <= 1]
            self._points = sorted({0.0, _EDGE, *between, 1 - _EDGE, 1.0, *marks})
            self._sigmas = list(accumulate(map(self._sigma_of, self._points), min))
            self._exact = {self._sigma_of(mark): mark for mark in (0.0, 1.0, *marks)}

    def __call__(self, sigma: float) -> SamplingPoint:
        """Return the point of a sigma."""
        timestep = float(self._sampling.timestep(torch.tensor([sigma])).reshape(-1)[0])
        if not self._points:
            progress = min(max(1.0 - timestep / _LAST_TIMESTEP, 0.0), 1.0)
            return SamplingPoint(progress, sigma, timestep)
        return SamplingPoint(self._progress(sigma), sigma, timestep)

    def _sigma_of(self, percent: float) -> float:
        return float(self._sampling.percent_to_sigma(percent))

    def _progress(self, sigma: float) -> float:
        exact = self._exact.get(sigma)
        if exact is not None:
            return exact
        points, sigmas = self._points, self._sigmas
        index = bisect_left(sigmas, -sigma, key=lambda s: -s)
        if index == len(points):
            return 1.0
        if sigmas[index] == sigma or index == 0:
            return points[index]
        early, late = points[index - 1], points[index]
        high, low = sigmas[index - 1], sigmas[index]
        # Rounding must not carry it to a neighbour, which may be a start or an end.
        least, most = math.nextafter(early, 1.0), math.nextafter(late, 0.0)
        for look in range(_SEARCH):
            share = 0.5 if look % 2 else _share(sigma, high, low)
            middle = early + share * (late - early)
            between = self._sigma_of(middle)
            if between > sigma:
                early, high = middle, between
            else:
                late, low = middle, between
            if between == sigma or high <= low:
                break
        else:
            middle = early + _share(sigma, high, low) * (late - early)
        return min(max(middle, least), most)


def _share(sigma: float, high: float, low: float) -> float:
    """Return how far sigma has come from high to low, on a logarithmic scale where that goes."""
    if low > 0:
        return math.log(high / sigma) / math.log(high / low)
    return (high - sigma) / (high - low)
