# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""One kernel against plain torch: is it right, whatever lies around its inputs, and how fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attnpatch.ops.admission.problems import Problem
from attnpatch.ops.admission.timing import copies_beyond_cache, measure, ratio

BOUNDS = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Errors of results of some units that pass in any case."""

_GUARD = 256
"""Values that are not numbers before and after each input."""


class WrongError(Exception):
    """A kernel's result is not what it should be."""


def each_tensor(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return arguments with every tensor in them changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(each_tensor(item, change) for item in value)
    return value


def flat(results: Any) -> list[Tensor]:
    """Return the tensors of a result."""
    return [results] if isinstance(results, Tensor) else list(results)


def guarded(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor with its strides between values that are not numbers: reading one shows."""
    length = 1 + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    length = max(length, 0) if tensor.numel() else 0
    poison = math.nan if tensor.is_floating_point() else -(1 << 40)
    around = torch.full((length + 2 * _GUARD,), poison, dtype=tensor.dtype, device=device)
    inside = around.as_strided(tensor.shape, tensor.stride(), _GUARD)
    return inside.copy_(tensor)


def largest_error(computed: Any, expected: Any) -> float:
    """Return the largest difference; infinite where one is not a number."""
    worst = 0.0
    for ours, exact in zip(flat(computed), flat(expected), strict=True):
        if ours.numel() == 0:
            continue
        difference = (ours.double() - exact.double()).abs().max().item()
        worst = max(worst, math.inf if math.isnan(difference) else difference)
    return worst


class Trial:
    """An operator's forms on a device.

    Parameters
    ----------
    kernel, plain, reference
        What is tried, what it must beat, and what is exact in float64.
    device
        Where.
    """

    def __init__(
        self,
        kernel: Callable[..., Any],
        plain: Callable[..., Any],
        reference: Callable[..., Any],
        device: torch.device,
    ) -> None:
        self._kernel, self._plain, self._reference = kernel, plain, reference
        self._device = device

    def errors(self, problem: Problem) -> tuple[float, float]:
        """Return the errors of the kernel and of plain torch.

        Raises
        ------
        WrongError
            If the kernel's is too large, or its results differ from call to call.
        """
        inside = each_tensor(problem.arguments, lambda t: guarded(t, self._device))
        computed = self._kernel(*inside)
        plain = self._plain(*inside)
        if problem.real:  # too large for float64
            error, theirs = largest_error(computed, plain), 0.0
        else:
            exact = each_tensor(
                problem.arguments, lambda t: t.double() if t.is_floating_point() else t
            )
            expected = [t.to(self._device) for t in flat(self._reference(*exact))]
            error, theirs = largest_error(computed, expected), largest_error(plain, expected)
        bound = max(2 * theirs, BOUNDS[problem.arguments[0].dtype])
        if not error <= bound:
            raise WrongError(f"error {error:.2g}, expected at most {bound:.2g}")
        self._repeat(inside, computed)
        return error, theirs

    def _repeat(self, arguments: Sequence[Any], first: Any) -> None:
        """Call again, on a GPU while it works on something else, on another stream and captured."""
        if self._device.type != "cuda":
            self._expect_same(self._kernel(*arguments), first, "a second call")
            return
        noise = torch.randn(1024, 1024, device=self._device, dtype=torch.float16)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        for _ in range(10):
            noise @ noise
            with torch.cuda.stream(stream):
                again = self._kernel(*arguments)
            stream.synchronize()
            self._expect_same(again, first, "a call on another stream")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = self._kernel(*arguments)
        for result in flat(captured):
            result.fill_(math.nan)
        graph.replay()
        torch.cuda.synchronize(self._device)
        self._expect_same(captured, first, "a replayed graph")

    @staticmethod
    def _expect_same(again: Any, first: Any, what: str) -> None:
        if not all(map(torch.equal, flat(again), flat(first))):
            raise WrongError(f"{what} gives another result")

    def speed(self, problem: Problem, rounds: int, seconds: float) -> tuple[float, float]:
        """Return plain torch's time over the kernel's: median and lower quartile of the rounds."""
        tensors: list[Tensor] = []
        each_tensor(problem.arguments, tensors.append)
        size = sum(t.numel() * t.element_size() for t in tensors)
        copies = [
            each_tensor(problem.arguments, lambda t: t.to(self._device, copy=True))
            for _ in range(copies_beyond_cache(self._device, size))
        ]

        def calls(function: Callable[..., Any]) -> list[Callable[[], Any]]:
            return [partial(function, *arguments) for arguments in copies]

        ours, theirs = measure(
            self._device, [calls(self._kernel), calls(self._plain)], rounds, seconds
        )
        return ratio(theirs, ours)
