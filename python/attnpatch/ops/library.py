# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What all operators share: registration, gradients, autocast, and the choice of backend."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnpatch import _core  # noqa: F401  (defines the operators' schemas and CPU kernels)
from attnpatch.ops.checks import checked, register_fakes

LIBRARY = torch.library.Library("attnpatch", "IMPL")

BACKENDS = ("auto", "cuda", "plain", "reference")


def backend() -> str:
    """Which implementation serves the operators: environment variable ``ATTNPATCH_BACKEND``.

    Returns
    -------
    str
        ``"auto"``: the fused kernel where a device has one that is on by default, plain torch
        elsewhere. ``"cuda"``: the fused kernels on CUDA as well. ``"plain"``: plain torch
        everywhere. ``"reference"``: the readable reference everywhere.

    Raises
    ------
    ValueError
        If the variable holds another word.
    """
    choice = os.environ.get("ATTNPATCH_BACKEND", "auto")
    if choice not in BACKENDS:
        raise ValueError(f"ATTNPATCH_BACKEND: expected one of {BACKENDS}, got {choice!r}")
    return choice


def load_cuda_kernels() -> Any:
    """Make CUDA tensors take the CUDA kernels, from now on.

    Returns
    -------
    module
        ``attnpatch._cuda``, which says how much they take.

    Raises
    ------
    ImportError
        If attnpatch was built without them, or torch without CUDA.
    """
    if importlib.util.find_spec("attnpatch._cuda") is None:
        raise ImportError(
            "ATTNPATCH_BACKEND=cuda: this build of attnpatch has no CUDA kernels; build it where a "
            "CUDA compiler is, with ATTNPATCH_CUDA=ON (see docs/cuda.md)"
        )
    return importlib.import_module("attnpatch._cuda")


_FORCED = backend() if backend() in ("plain", "reference") else None

_LIMITS: dict[str, Any] = {"cuda": load_cuda_kernels()} if backend() == "cuda" else {}
"""For a type of device what its kernels take at most: ``head_size``, ``branches`` and so on."""

_PLAIN: dict[Callable[..., Any], Callable[..., Any]] = {}
"""For a reference its operator in plain torch."""

_BEYOND: dict[Callable[..., Any], Callable[..., bool]] = {}
"""For a reference whether arguments are beyond such limits."""

_CAST: dict[Callable[..., Any], frozenset[int]] = {}
"""For a reference which arguments autocast casts."""


def call(operator: Callable[..., Any], reference: Callable[..., Any], *arguments: Any) -> Any:
    """Call an operator's kernel, where the device of the first argument has one that serves.

    Else the operator in plain torch is called directly, so that ``torch.compile`` sees through it,
    or, where gradients are wanted or float64, the readable reference.
    """
    first = arguments[0]
    if not first.is_cpu or first.dtype is torch.float64 or _FORCED or _LIMITS:
        serves = _substitute(reference, arguments)
        if serves is not None:
            return _with_autocast(serves, _CAST[reference], arguments)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return operator(*arguments)
    # Past the autograd formula, which is Python's and costs as much as the rest of the call.
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def _substitute(
    reference: Callable[..., Any], arguments: Sequence[Any]
) -> Callable[..., Any] | None:
    """Choose what serves instead of a kernel; None: the kernel does."""
    if arguments[0].dtype is torch.float64:  # no kernel computes in it
        return reference
    device = arguments[0].device.type
    if _FORCED is None and (device == "cpu" or device in _LIMITS):
        limits, beyond = _LIMITS.get(device), _BEYOND.get(reference)
        if limits is None or beyond is None or not beyond(limits, *arguments):
            return None
    wants_gradient = torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in _flat(arguments)
    )
    return reference if _FORCED == "reference" or wants_gradient else _PLAIN[reference]


def _with_autocast(
    function: Callable[..., Any], cast: frozenset[int], arguments: Sequence[Any]
) -> Any:
    """Call what serves instead of a kernel as autocast calls the operator."""
    device = arguments[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return function(*arguments)
    dtype = torch.get_autocast_dtype(device)
    arguments = [_to(a, dtype) if i in cast else a for i, a in enumerate(arguments)]
    with torch.autocast(device, enabled=False):
        return function(*arguments)


def _to(value: Any, dtype: torch.dtype) -> Any:
    """Cast as autocast does, which leaves float64 alone."""
    if isinstance(value, Tensor):
        return value if value.dtype is torch.float64 else value.to(dtype)
    return [_to(item, dtype) for item in value] if isinstance(value, list) else value


def heads_are_beyond(limits: Any, q: Tensor) -> bool:
    """Whether queries (batch, heads, queries, head size) are beyond what attention kernels take.

    In float32 torch's own attention is several times as fast as a kernel without tensor cores.
    """
    return (
        q.dtype == torch.float32 or q.shape[3] > limits.head_size or max(q.shape[:2]) > limits.grid
    )


def register(
    name: str,
    reference: Callable[..., Any],
    plain: Callable[..., Any],
    fake: Callable[..., Any],
    cast: Sequence[int] = (),
    beyond: Callable[..., bool] | None = None,
) -> None:
    """Register what an operator shares with all others, made of its forms in Python.

    Parameters
    ----------
    name : str
        The operator's name; its schema has one overload and no keyword-only arguments.
    reference : callable
        Computes the same on any device, differentiably, behind the checks; it alone takes float64.
        Its gradients are the operator's.
    plain : callable
        Computes the same quickly, without gradients, of arguments that are checked. It serves the
        devices without a kernel of ours.
    fake : callable
        Makes an empty result, of arguments that are checked.
    cast : sequence of int
        The arguments (tensors, lists of them, or None) that autocast casts.
    beyond : callable, optional
        Called with a device's limits and the operator's arguments: whether these are beyond them,
        so that plain torch has to serve.
    """
    if beyond is not None:
        _BEYOND[reference] = beyond
    _CAST[reference] = frozenset(cast)

    register_fakes(name, fake)
    checked_plain = checked(name)(plain)
    _PLAIN[reference] = checked_plain
    LIBRARY.impl(name, checked_plain, "CompositeExplicitAutograd")
    for device in ("cpu", "cuda") if cast else ():
        _autocast(name, device, frozenset(cast))
    torch.library.register_autograd(
        f"attnpatch::{name}",
        lambda ctx, *gradients: _backward(reference, ctx, gradients),
        setup_context=_keep_inputs,
    )


def _autocast(name: str, device: str, cast: frozenset[int]) -> None:
    key = f"Autocast{device.upper()}"
    operator = getattr(torch.ops.attnpatch, name).default

    def with_casts(*arguments: Any) -> Any:
        dtype = torch.get_autocast_dtype(device)
        inside = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))
        with torch._C._ExcludeDispatchKeyGuard(inside):
            return operator(*(_to(a, dtype) if i in cast else a for i, a in enumerate(arguments)))

    LIBRARY.impl(name, with_casts, key)


def _keep_inputs(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Any) -> None:
    ctx.inputs = inputs


def _flat(values: Any) -> list[Any]:
    if isinstance(values, (list, tuple)):
        return [item for value in values for item in _flat(value)]
    return [values]


def _backward(
    reference: Callable[..., Any], ctx: torch.autograd.function.FunctionCtx, gradients: tuple
) -> tuple:
    """Differentiate the reference: the kernels keep nothing for a backward pass."""

    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().requires_grad_(value.requires_grad)
        return [leaf(item) for item in value] if isinstance(value, list) else value

    leaves = [leaf(value) for value in ctx.inputs]
    wanted = [t for t in _flat(leaves) if isinstance(t, Tensor) and t.requires_grad]
    with torch.enable_grad():
        outputs = _flat(reference(*leaves))
    known = [
        (out, grad)
        for out, grad in zip(outputs, _flat(gradients), strict=True)
        if grad is not None and out.requires_grad
    ]
    found = iter(
        torch.autograd.grad(
            [out for out, _ in known], wanted, [grad for _, grad in known], allow_unused=True
        )
    )

    def gradient(value: Any, needed: Any) -> Any:
        # torch wants a list for a list of tensors, empty or not, and None for one of numbers.
        if isinstance(needed, list):
            return list(map(gradient, value, needed))
        return next(found) if isinstance(value, Tensor) and value.requires_grad else None

    # Arguments left at their defaults may be missing from the second.
    return tuple(map(gradient, leaves, [*ctx.needs_input_grad, *[False] * len(leaves)]))
