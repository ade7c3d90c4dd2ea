# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""How long calls take beside each other: in turn, round by round, in one process."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch

Call = Callable[[], object]


class Graph:
    """Some calls captured on a GPU, so that a replay makes them all and no launch is waited for.

    Their results are kept: a pool that gave each call the memory of the one before would let
    writes stay in the cache.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self._count = len(calls)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for call in calls:
                call()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = [call() for call in calls]

    def seconds(self, repeats: int) -> float:
        """Replay and return the seconds of one call."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            self._graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / repeats / self._count


class Loop:
    """Some calls on a CPU."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        for call in calls:
            call()

    def seconds(self, repeats: int) -> float:
        """Make the calls and return the seconds of one."""
        begin = time.perf_counter()
        for _ in range(repeats):
            for call in self._calls:
                call()
        return (time.perf_counter() - begin) / repeats / len(self._calls)


def copies_beyond_cache(device: torch.device, call_bytes: int) -> int:
    """Return how many copies of a call's inputs fill a GPU's cache four times."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(64, max(2, math.ceil(4 * cache / max(call_bytes, 1))))


def measure(
    device: torch.device, variants: Sequence[Sequence[Call]], rounds: int, seconds: float
) -> list[list[float]]:
    """Time variants of the same calls.

    Parameters
    ----------
    device
        Where they run.
    variants
        Each a call, as often as there are copies of its inputs.
    rounds, seconds
        How many times each has its turn, and how long the turns of a round take about.

    Returns
    -------
    list of list of float
        Seconds of a call: of each variant in each round.
    """
    timer_class = Graph if device.type == "cuda" else Loop
    timers = [timer_class(calls) for calls in variants]
    repeats = [max(1, round(seconds / len(timers) / max(t.seconds(1), 1e-7))) for t in timers]
    times: list[list[float]] = [[] for _ in timers]
    for _ in range(rounds):
        for timer, count, of_timer in zip(timers, repeats, times, strict=True):
            of_timer.append(timer.seconds(count))
    return times


def ratio(others: Sequence[float], ours: Sequence[float]) -> tuple[float, float]:
    """Return the median and the lower quartile over the rounds of the other's time over ours."""
    ratios = [other / own for other, own in zip(others, ours, strict=True)]
    if len(ratios) < 2:
        return ratios[0], ratios[0]
    return statistics.median(ratios), statistics.quantiles(ratios, n=4, method="inclusive")[0]
