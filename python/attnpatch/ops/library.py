# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What all operators share: registration, gradients, autocast, and the choice of backend."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attnpatch import _core  # noqa: F401  (defines the operators' schemas and CPU kernels)
from attnpatch.ops import admission
from attnpatch.ops.checks import check_are_tensors, checked, register_fakes

LIBRARY = torch.library.Library("attnpatch", "IMPL")

_log = logging.getLogger(__name__)

BACKENDS = ("auto", "cuda", "plain", "reference")


def backend() -> str:
    """Which implementation serves the operators: environment variable ``ATTNPATCH_BACKEND``.

    Returns
    -------
    str
        ``"auto"``: the fused kernel where it is the default or a verdict admits it, plain torch
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
"""For a type of device whose kernels serve all calls what they take at most: ``head_size`` and so
on."""

_CPU_VERDICTS = backend() == "auto" and admission.has_verdicts("cpu")


class Forms(NamedTuple):
    """An operator in its forms."""

    name: str
    operator: Callable[..., Any]
    plain: Callable[..., Any]
    reference: Callable[..., Any]
    check: Callable[..., None]
    """Checks the arguments, and no more."""
    cast: frozenset[int]
    """The arguments that autocast casts."""
    beyond: Callable[..., bool] | None
    """Whether arguments are beyond a device's limits."""


_FORMS: dict[Callable[..., Any], Forms] = {}
"""By the reference."""


def forms_of(name: str) -> Forms:
    """Return the forms of an operator."""
    return next(forms for forms in _FORMS.values() if forms.name == name)


def call(
    operator: torch._ops.OpOverload[..., Any], reference: Callable[..., Any], *arguments: Any
) -> Any:
    """Call an operator's kernel, where the device of the first argument has one that serves.

    Else the operator in plain torch is called directly, so that ``torch.compile`` sees through it,
    or, where gradients or tangents are wanted or float64, the readable reference.

    Raises
    ------
    TypeError
        If something stands where a tensor should.
    """
    if torch.compiler.is_compiling():
        return _call(operator, reference, arguments)
    try:
        return _call(operator, reference, arguments)
    except (AttributeError, TypeError, RuntimeError):
        check_are_tensors(operator, arguments)  # a call that succeeds does not pay for it
        raise


def _call(
    operator: Callable[..., Any], reference: Callable[..., Any], arguments: Sequence[Any]
) -> Any:
    first = arguments[0]
    wide = first.dtype is torch.float64
    forward = forward_ad._current_level >= 0
    if wide or forward or not first.is_cpu or _FORCED or _LIMITS or _CPU_VERDICTS:
        serves = _substitute(_FORMS[reference], arguments)
        if serves is not None:
            return with_autocast(serves, _FORMS[reference].cast, arguments)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return operator(*arguments)
    # Past the autograd formula, which is Python's and costs as much as the rest of the call.
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def has_tangents(arguments: Sequence[Any]) -> bool:
    """Whether a tensor brings a tangent (``torch.autograd.forward_ad``, ``torch.func.jvp``)."""
    if forward_ad._current_level < 0:
        return False
    tensors = (value for value in _flat(arguments) if isinstance(value, Tensor))
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def cpu_kernels_serve() -> bool:
    """Whether the CPU's kernels serve every call there: nobody chose or limited them."""
    return not (_FORCED or _LIMITS or _CPU_VERDICTS)


def _substitute(forms: Forms, arguments: Sequence[Any]) -> Callable[..., Any] | None:
    """Choose what serves instead of a kernel; None: the kernel does."""
    if arguments[0].dtype is torch.float64:  # no kernel computes in it
        return forms.reference
    if has_tangents(arguments):  # torch calls an operator without them, and says nothing
        return forms.reference
    if _FORCED is None and kernel_serves(forms, arguments):
        return None
    wants_gradient = torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in _flat(arguments)
    )
    return forms.reference if _FORCED == "reference" or wants_gradient else forms.plain


def kernel_serves(forms: Forms, arguments: Sequence[Any]) -> bool:
    """Whether a kernel takes these arguments: all where it was asked for, else by verdicts."""
    device = arguments[0].device
    asked_for = device.type in _LIMITS
    limits = _LIMITS[device.type] if asked_for else None
    if device.type == "cuda" and not asked_for:
        limits = _admitted_cuda_kernels(device)
        if limits is None:
            return False
    elif not asked_for and not (device.type == "cpu" and _CPU_VERDICTS):
        return device.type == "cpu"
    forms.check(*arguments)  # what follows looks into them
    if limits is not None and _is_beyond(forms, limits, arguments):
        return False
    if asked_for:
        return True
    call_class = admission.class_of(forms.name, arguments)
    return _is_admitted(device, forms.name, str(arguments[0].dtype), call_class)


def _is_beyond(forms: Forms, limits: Any, arguments: Sequence[Any]) -> bool:
    return forms.beyond is not None and forms.beyond(limits, *arguments)


def is_beyond(name: str, device: str, arguments: Sequence[Any]) -> bool:
    """Whether arguments are beyond what an operator's kernels take on a type of device."""
    return device == "cuda" and _is_beyond(forms_of(name), load_cuda_kernels(), arguments)


def _admitted_cuda_kernels(device: torch.device) -> Any:
    """Return the module with the CUDA kernels, where some verdict admits one; None: none does."""
    if device not in _CUDA_KERNELS:
        _CUDA_KERNELS[device] = None
        is_built = importlib.util.find_spec("attnpatch._cuda") is not None
        if backend() == "auto" and is_built and admission.admits_any(device):
            kernels = load_cuda_kernels()
            refusal = kernels.refusal(device.index or 0)
            if refusal:
                _log.warning("%s: our kernels cannot run there: %s", device, refusal)
            else:
                _CUDA_KERNELS[device] = kernels
    return _CUDA_KERNELS[device]


_CUDA_KERNELS: dict[torch.device, Any] = {}


def _is_admitted(device: torch.device, name: str, dtype: str, call_class: str) -> bool:
    return admission.choice_for(device, name, dtype, call_class).kernel


def has_autocast(device: str) -> bool:
    """Whether autocast knows a type of devices; the compiler of torch 2.10 does not see into it."""
    return torch.amp.is_autocast_available(device)


# As torch.compiler.assume_constant_result does, which imports all of the compiler for it: files are
# not read by a compiled program.
_CONSTANTS: tuple[Any, ...] = (_admitted_cuda_kernels, _is_admitted, has_autocast)
for _constant in _CONSTANTS:
    _constant._dynamo_marked_constant = True


def with_autocast(
    function: Callable[..., Any], cast: frozenset[int], arguments: Sequence[Any]
) -> Any:
    """Call what serves instead of a kernel as autocast calls the operator.

    Parameters
    ----------
    function : callable
        Takes the operator's arguments.
    cast : frozenset of int
        Those that autocast casts.
    arguments : sequence
        By position.
    """
    device = arguments[0].device.type
    if not (has_autocast(device) and torch.is_autocast_enabled(device)):
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


def _nothing(*_: object) -> None:
    """Do nothing, behind checks."""


def heads_are_beyond(limits: Any, q: Tensor, k: Tensor) -> bool:
    """Whether q and k (batch, heads, tokens, head size) are beyond what attention kernels take.

    In float32 torch's own attention is several times as fast as a kernel without tensor cores. They
    take one head of keys for each of queries.
    """
    return (
        q.dtype == torch.float32
        or q.shape[3] > limits.head_size
        or max(q.shape[:2]) > limits.grid
        or k.shape[1] != q.shape[1]
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
    register_fakes(name, fake)
    operator = getattr(torch.ops.attnpatch, name).default
    checked_plain, check = checked(name)(plain), checked(name)(_nothing)
    _FORMS[reference] = Forms(
        name, operator, checked_plain, reference, check, frozenset(cast), beyond
    )
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


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
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
    reference: Callable[..., Any], ctx: Any, gradients: tuple[Any, ...]
) -> tuple[Any, ...]:
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
    of_wanted = iter(
        torch.autograd.grad(
            [out for out, _ in known], wanted, [grad for _, grad in known], allow_unused=True
        )
    )

    def gradient(value: Any, needed: Any) -> Any:
        # torch wants a list for a list of tensors, empty or not, and None for one of numbers.
        if isinstance(needed, list):
            return list(map(gradient, value, needed))
        return next(of_wanted) if isinstance(value, Tensor) and value.requires_grad else None

    # Arguments left at their defaults may be missing from the second: no torch wants more.
    return tuple(map(gradient, leaves, ctx.needs_input_grad))


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)
