# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What all operators share: registration, gradients, autocast, and the choice of backend."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnpatch import _core  # noqa: F401  (defines the operators' schemas and CPU kernels)
from attnpatch.ops.checks import checked, register_fakes

LIBRARY = torch.library.Library("attnpatch", "IMPL")

BACKENDS = ("auto", "cuda", "reference")


def backend() -> str:
    """Which implementation serves the operators: environment variable ``ATTNPATCH_BACKEND``.

    Returns
    -------
    str
        ``"auto"``: the fused kernel where a device has one that is on by default.
        ``"cuda"``: on CUDA as well, where the reference is the default. ``"reference"``: the
        readable reference everywhere.

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


_FORCED_REFERENCE = backend() == "reference"

_LIMITS: dict[str, Any] = {"cuda": load_cuda_kernels()} if backend() == "cuda" else {}
"""For a type of device what its kernels take at most: ``head_size``, ``branches`` and so on."""

_BEYOND: dict[Callable[..., Any], Callable[..., bool]] = {}
"""For a reference whether arguments are beyond such limits."""

_CAST: dict[Callable[..., Any], frozenset[int]] = {}
"""For a reference which arguments autocast casts."""


def call(operator: Callable[..., Any], reference: Callable[..., Any], *arguments: Any) -> Any:
    """Call an operator; or its reference, where that is forced or the kernel takes less.

    No kernel computes in float64.
    """
    wide = arguments[0].dtype is torch.float64
    if wide or _FORCED_REFERENCE or (_LIMITS and _is_beyond(reference, arguments)):
        return _with_autocast(reference, arguments)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return operator(*arguments)
    # Past the autograd formula, which is Python's and costs as much as the rest of the call.
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def _with_autocast(reference: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Call a reference as autocast calls the operator."""
    device = arguments[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return reference(*arguments)
    dtype, cast = torch.get_autocast_dtype(device), _CAST[reference]
    arguments = [_to(a, dtype) if i in cast else a for i, a in enumerate(arguments)]
    with torch.autocast(device, enabled=False):
        return reference(*arguments)


def _to(value: Any, dtype: torch.dtype) -> Any:
    """Cast as autocast does, which leaves float64 alone."""
    if isinstance(value, Tensor):
        return value if value.dtype is torch.float64 else value.to(dtype)
    return [_to(item, dtype) for item in value] if isinstance(value, list) else value


def _is_beyond(reference: Callable[..., Any], arguments: Sequence[Any]) -> bool:
    limits = _LIMITS.get(arguments[0].device.type)
    beyond = _BEYOND.get(reference)
    return limits is not None and beyond is not None and beyond(limits, *arguments)


def register(
    name: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    cast: Sequence[int] = (),
    beyond: Callable[..., bool] | None = None,
) -> None:
    """Register what an operator shares with all others, made of its readable reference.

    Parameters
    ----------
    name : str
        The operator's name; its schema has one overload and no keyword-only arguments.
    reference : callable
        Computes the same on any device, differentiably, behind the checks; it alone takes float64.
        It serves the devices without a kernel of ours, and its gradients are the operator's.
    fake : callable
        Makes an empty result, of arguments that are checked.
    cast : sequence of int
        The arguments (tensors, lists of them, or None) that autocast casts.
    beyond : callable, optional
        Called with a device's limits and the operator's arguments: whether these are beyond them,
        so that the reference has to serve.
    """
    if beyond is not None:
        _BEYOND[reference] = beyond
    _CAST[reference] = frozenset(cast)

    register_fakes(name, fake)
    LIBRARY.impl(name, checked(name)(inspect.unwrap(reference)), "CompositeExplicitAutograd")
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
    # Saved as torch wants it, so that it sees writes into them and checkpointing can drop them.
    tensors = [value for value in _flat(inputs) if isinstance(value, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.inputs = _rebuilt(inputs, lambda value: None if isinstance(value, Tensor) else value)
    ctx.is_tensor = _rebuilt(inputs, lambda value: isinstance(value, Tensor))


def _flat(values: Any) -> list[Any]:
    if isinstance(values, (list, tuple)):
        return [item for value in values for item in _flat(value)]
    return [values]


def _rebuilt(values: Any, change: Callable[..., Any], *others: Any) -> Any:
    """Change each value that is no list or tuple, with those in its place in structures alike."""
    if isinstance(values, (list, tuple)):
        rows = zip(values, *others, strict=True)
        return type(values)(_rebuilt(value, change, *rest) for value, *rest in rows)
    return change(values, *others)


def _backward(
    reference: Callable[..., Any], ctx: torch.autograd.function.FunctionCtx, gradients: tuple
) -> tuple:
    """Differentiate the reference: the kernels keep nothing for a backward pass."""
    saved = iter(ctx.saved_tensors)
    leaves = _rebuilt(
        ctx.inputs,
        lambda value, is_tensor: _leaf(next(saved)) if is_tensor else value,
        ctx.is_tensor,
    )
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

    # Arguments left at their defaults may be missing from the second: no torch wants more.
    return tuple(map(gradient, leaves, ctx.needs_input_grad))


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)
