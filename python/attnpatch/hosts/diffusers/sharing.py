# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Copy a tree of modules and all that hangs on it, but none of its tensors."""

from __future__ import annotations

import copy
import copyreg
import functools
import threading
import types
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attnpatch.hosts.recognition import is_kind_of, unwrapped, wrapping

__all__ = ["share_weights"]

_SHARDED = {
    "FullyShardedDataParallel": "FullyShardedDataParallel",
    "FSDPModule": "fully_shard",
}
# There is one of each of these, or a copy would not do what it is for.
_SHARED = (
    Tensor,
    torch.Generator,
    torch.Stream,
    torch.Event,
    types.ModuleType,
    type(threading.Lock()),
    type(threading.RLock()),
)


def share_weights(module: Any, memo: dict[int, Any] | None = None) -> Any:
    """Copy the tree of modules of `module`: other modules, the very same tensors.

    What hangs on the modules is copied with them: hooks, and the functions that others put in the
    place of a `forward`, as those of diffusers do that offload or cast weights or cache features.
    Those of the copy know the modules of the copy, and keep a state of their own. Weights that they
    move or cast are moved or cast for both trees, which then run by turns, not at the same time.

    Parameters
    ----------
    module
        A module; the copy is in no wrapper, whatever it is in.
    memo
        As of ``copy.deepcopy``: by their ids, objects that the copy knows in the place of others.

    Raises
    ------
    TypeError
        If weights of the tree are sharded, so that its modules do not hold them.
    """
    parts = list(unwrapped(module).modules())
    for part in (*wrapping(module), *parts):
        for name, function in _SHARDED.items():
            if is_kind_of(part, name):
                raise TypeError(
                    "model: expected a model whose weights can be shared, got one sharded by "
                    f"{function}; attach patches it in place"
                )
    tree = {id(part) for part in parts}
    memo = {} if memo is None else memo
    for part in parts:
        hook = part.__dict__.get("_hf_hook")  # accelerate's: they know no module of the tree
        if hook is not None:
            memo[id(hook)] = hook
    memo.update((id(value), value) for value in _reachable(parts, memo, tree))
    # All twins are known before any is filled, so that long chains of hooks, each of which knows
    # the next one's modules, are no deep recursion.
    states = [(memo[id(part)], state) for part in parts if (state := _add_empty_twin(part, memo))]
    for twin, state in states:
        twin.__setstate__(copy.deepcopy(state, memo))
    twins = [copy.deepcopy(part, memo) for part in parts]
    _Functions(tree, memo).renew(twins)
    return twins[0]


def _add_empty_twin(part: nn.Module, memo: dict[int, Any]) -> dict[str, Any] | None:
    """Put a module without attributes into `memo`, and return those of `part`.

    None, and nothing is put there: modules of its type have a way of their own to be copied.
    """
    if hasattr(type(part), "__deepcopy__"):
        return None
    make, arguments, state, *_ = part.__reduce_ex__(4)
    if make is not copyreg.__newobj__:  # type: ignore[attr-defined]
        return None
    memo[id(part)] = make(*arguments)
    return state


def _reachable(parts: Iterable[Any], memo: Collection[int], tree: set[int]) -> Iterator[Any]:
    """Yield all that hangs on the modules and is shared instead of copied."""
    seen = set(memo)
    left: list[Any] = list(parts)
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        other = isinstance(value, nn.Module) and id(value) not in tree
        if isinstance(value, _SHARED) or (other and not _leads_to(value, tree)):
            yield value
        else:
            left.extend(_contents(value))


def _leads_to(value: Any, tree: set[int]) -> bool:
    """Whether a module of the tree is reached from `value`."""
    seen: set[int] = set()
    left = [value]
    while left:
        value = left.pop()
        if id(value) in tree:
            return True
        if id(value) not in seen:
            seen.add(id(value))
            left.extend(_contents(value))
    return False


def _contents(value: Any) -> Iterable[Any]:
    """Return what an object holds, as far as ``copy.deepcopy`` or we copy it."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords, value.__dict__]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
    if isinstance(value, (type, *_SHARED)):
        return ()
    if hasattr(type(value), "__deepcopy__") and not isinstance(value, nn.Module):
        return ()
    return [value.__dict__] if hasattr(value, "__dict__") else ()


def _is_full(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


class _Functions:
    """Gives a copied tree functions of its own, which ``copy.deepcopy`` never copies.

    A function is made anew where what it closes over leads to a module of the first tree; it then
    closes over a copy of that.
    """

    def __init__(self, tree: set[int], memo: dict[int, Any]) -> None:
        self._tree = tree
        self._memo = memo
        self._made: dict[int, Any] = {}
        self._left: list[Any] = []

    def renew(self, roots: Iterable[Any]) -> None:
        """Replace functions in all that the roots, which are copied, lead to."""
        seen: set[int] = set()
        self._left = list(roots)
        while self._left:
            value = self._left.pop()
            shared = self._memo.get(id(value)) is value or id(value) in self._tree
            if shared or id(value) in seen:
                continue
            seen.add(id(value))
            self._renew_in(value)
            self._left.extend(_contents(value))

    def _renew_in(self, value: Any) -> None:
        if isinstance(value, dict):
            for key, before in value.items():
                if (after := self._renewed(before)) is not before:
                    value[key] = after
        elif isinstance(value, list):
            for index, before in enumerate(value):
                if (after := self._renewed(before)) is not before:
                    value[index] = after
        elif isinstance(value, functools.partial):
            function = self._renewed(value.func)
            arguments = self._renewed(value.args)
            value.__setstate__((function, arguments, value.keywords, value.__dict__))

    def _renewed(self, value: Any) -> Any:
        if isinstance(value, types.FunctionType):
            return self._renewed_function(value)
        if isinstance(value, types.MethodType):
            function = self._renewed(value.__func__)
            same = function is value.__func__
            return value if same else types.MethodType(function, value.__self__)
        if type(value) is tuple:
            items = tuple(map(self._renewed, value))
            same = all(new is old for new, old in zip(items, value, strict=True))
            return value if same else items
        return value

    def _renewed_function(self, function: types.FunctionType) -> Any:
        if id(function) not in self._made:
            self._made[id(function)] = function
            if function.__closure__ and _leads_to(function, self._tree):
                self._made[id(function)] = self._copied(function)
        return self._made[id(function)]

    def _copied(self, function: types.FunctionType) -> Any:
        assert function.__closure__ is not None
        cells = tuple(types.CellType() for _ in function.__closure__)
        made = types.FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            cells,
        )
        self._made[id(function)] = made  # it may close over itself
        made.__kwdefaults__ = function.__kwdefaults__
        made.__dict__.update(copy.deepcopy(function.__dict__, self._memo))
        for cell, before in zip(cells, function.__closure__, strict=True):
            if _is_full(before):
                cell.cell_contents = self._content(before.cell_contents)
                self._left.append(cell.cell_contents)
        self._left.append(made.__dict__)
        return made

    def _content(self, value: Any) -> Any:
        """Return what a function of the copy closes over."""
        if not _leads_to(value, self._tree):
            return value  # a list that someone reads, a counter
        return self._renewed(copy.deepcopy(value, self._memo))
