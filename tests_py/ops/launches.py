# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a function of tensors costs a GPU, counted without one: launches and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ALLOCATIONS = {"empty", "new_empty", "new_empty_strided", "empty_strided", "empty_like"}
_FREE = {"detach", "_unsafe_view", "lift_fresh"}


class Launches(TorchDispatchMode):
    """Counts what is dispatched to kernels of a device while it is active.

    Attributes
    ----------
    names
        How often each of torch's operators was called that computes something.
    moved
        Bytes that they read and wrote, each tensor once an operator.
    allocated
        Bytes of new memory, results included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.moved = 0
        self.allocated = 0

    @property
    def count(self) -> int:
        """How many launches."""
        return sum(self.names.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if func.is_view or name in _FREE or not made:
            return result
        new = [t for t in made if not any(t is other for other in given)]
        self.allocated += sum(map(_bytes, new))
        if name not in _ALLOCATIONS:
            self.names[name] += 1
            self.moved += sum(map(_bytes, [*given, *made]))
        return result


def _bytes(tensor: Tensor) -> int:
    """Distinct bytes: an expanded dimension counts once."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride != 0 else min(size, 1)
    return count


def count(function: Callable[..., Any], *arguments: Any) -> Launches:
    """Call a function and count."""
    with torch.no_grad(), Launches() as launches:
        function(*arguments)
    return launches
