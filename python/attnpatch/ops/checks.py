# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The checks of the operators' arguments: one set, in C++, for every device and every backend.

A kernel of ours makes them itself. Beside each operator stands another, with ``_check_`` before its
name, that takes the same arguments and makes the same checks alone: for the references and fakes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import SymInt, Tensor

from attnpatch import _core  # noqa: F401  (defines the operators)

P = ParamSpec("P")
R = TypeVar("R")


def checked(name: str, wide: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Put an operator's checks before a function of the same arguments.

    Parameters
    ----------
    name : str
        The operator's.
    wide : bool
        Whether the function takes float64 as well.
    """
    check = _check_of(name)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def after_checks(*args: P.args, **kwargs: P.kwargs) -> R:
            check(*args, wide=wide, **kwargs)
            return function(*args, **kwargs)

        return after_checks

    return decorate


def register_fakes(name: str, fake: Callable[..., Any]) -> None:
    """Register what an operator and its checks do on fake tensors and those of the meta device.

    Parameters
    ----------
    name : str
        The operator's.
    fake : callable
        Makes an empty result, of arguments that are checked.
    """
    check = functools.partial(_check_fakes, _check_of(name))

    def checked_fake(*arguments: Any) -> Any:
        check(*arguments)
        return fake(*arguments)

    torch.library.register_fake(f"attnpatch::_check_{name}", check)
    torch.library.register_fake(f"attnpatch::{name}", checked_fake)


def check_are_tensors(operator: torch._ops.OpOverload, arguments: Sequence[Any]) -> None:
    """Raise TypeError where something else stands in place of one of an operator's tensors.

    Parameters
    ----------
    operator
        Its schema says which arguments are tensors, or lists of them.
    arguments
        By position.
    """
    for argument, value in zip(operator._schema.arguments, arguments, strict=False):
        declared = str(argument.type)
        if declared == "List[Tensor]":
            each = {f"{argument.name}[{i}]": item for i, item in enumerate(value)}
        elif declared == "Tensor" or (declared == "Optional[Tensor]" and value is not None):
            each = {argument.name: value}
        else:
            each = {}
        for name, item in each.items():
            if not isinstance(item, Tensor):
                raise TypeError(f"{name}: expected a tensor, got {_name_of(item)}") from None


def _name_of(value: Any) -> str:
    if value is None:
        return "None"
    cls = type(value)
    builtin = cls.__module__ == "builtins"
    return cls.__qualname__ if builtin else f"{cls.__module__}.{cls.__qualname__}"


def _check_of(name: str) -> torch._ops.OpOverload:
    return getattr(torch.ops.attnpatch, f"_check_{name}").default


def _check_fakes(check: torch._ops.OpOverload, *arguments: Any, wide: bool = False) -> None:
    """Make the checks that look at no value.

    Straight in C++: through the dispatcher it would see all fakes on the meta device.
    """
    key = torch._C.DispatchKey.CompositeExplicitAutograd
    check._op_dk(key, *[_with_numbers(value) for value in arguments], wide=wide)


def _with_numbers(value: Any) -> Any:
    """Replace tensors whose sizes are symbols, which C++ cannot read, by ones of today's sizes.

    For other sizes the kernel or the reference looks again when it runs.
    """
    if isinstance(value, (list, tuple)):
        return [_with_numbers(item) for item in value]
    if not isinstance(value, Tensor) or not any(isinstance(size, SymInt) for size in value.shape):
        return value
    return value.new_empty([_number(size) for size in value.shape])


def _number(size: int | SymInt) -> int:
    hint: Any = size.node.hint if isinstance(size, SymInt) else size
    return int(hint)
