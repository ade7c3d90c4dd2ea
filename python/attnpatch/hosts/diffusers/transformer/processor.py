# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The attention processor that stands in for a layer's own: the same, but for its attention.

The layer's own processor projects, normalises, rotates and puts out as it always does. Its code is
run with another `dispatch_attention_fn`, through which every processor of diffusers' transformers
calls attention: nothing of it is written again here, and diffusers itself is not changed.
"""

from __future__ import annotations

import copy
import functools
import itertools
import types
from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from attnpatch.hosts.diffusers.operators import GraphSite, graph_site
from attnpatch.hosts.diffusers.skipping import register_skipping

__all__ = [
    "JointLayer",
    "PatchedProcessor",
    "check_processor",
    "make_patched_processor",
]

_DISPATCH = "dispatch_attention_fn"
_TORCH = "scaled_dot_product_attention"
_PERTURBED = ("PAGJointAttnProcessor2_0", "PAGCFGJointAttnProcessor2_0")
_numbers = itertools.count()


class JointLayer(Protocol):
    """A layer of joint attention, as far as its processor asks."""

    handle: Tensor
    patched_processor: Any

    def begin(self, processor: Any) -> bool:
        """Whether the patches may do something in the call that is running."""
        ...

    def dispatch(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        """Attend from q (batch, tokens, heads, size) to k and v, as the patches have it."""
        ...


class PatchedProcessor:
    """Stands in for the processor of one layer; made by :func:`make_patched_processor`.

    It is an instance of the original's class and shares the original's attributes. The original
    itself is called whenever the patches have nothing to do.
    """

    __slots__ = ("attnpatch_caller", "attnpatch_function", "attnpatch_layer", "attnpatch_original")
    attnpatch_layer: Any
    attnpatch_original: Any
    attnpatch_caller: Any
    attnpatch_function: Any

    def attnpatch_call(self, *args: Any, **kwargs: Any) -> Any:
        """Run the original's code with attention as the patches have it."""
        layer = self.attnpatch_layer
        compiling = torch.compiler.is_compiling()
        if graph_site(layer) is not None if compiling else layer.begin(self):
            return self.attnpatch_function(self.attnpatch_caller, *args, **kwargs)
        return self.attnpatch_original(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The layer is state, for it holds this one: a circle that pickle closes.
        return _bare, (self.attnpatch_original,), self.attnpatch_layer

    def __setstate__(self, layer: JointLayer) -> None:
        _give(self, layer)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = memo[id(self)] = _bare(copy.deepcopy(self.attnpatch_original, memo))
        _give(twin, copy.deepcopy(self.attnpatch_layer, memo))
        return twin


def check_processor(processor: object) -> None:
    """Raise TypeError where a processor calls attention in none of the ways of diffusers."""
    cls = type(processor)
    if cls.__name__ in _PERTURBED:
        raise TypeError(
            "model: expected attention processors that attend from all rows of a batch at once, "
            f"got {cls.__name__}, which attends from perturbed rows apart; run the pipeline "
            "without perturbed-attention guidance, or detach the patches"
        )
    if _function(cls) is None and _with_names(cls, {}, _TORCH) is None:
        raise TypeError(
            f"model: expected attention processors that call {_DISPATCH} or F.{_TORCH}, as those "
            f"of diffusers do, got {cls.__module__}.{cls.__qualname__}"
        )


def make_patched_processor(original: Any, layer: JointLayer) -> PatchedProcessor:
    """Return a processor that does what `original` does, with the patches of `layer`.

    Raises
    ------
    TypeError
        As :func:`check_processor`.
    """
    while isinstance(original, PatchedProcessor) and original.attnpatch_layer is not layer:
        if original.attnpatch_layer.patched_processor is not None:
            break
        original = original.attnpatch_original  # left over from what was detached
    if not isinstance(original, PatchedProcessor):
        check_processor(original)
    processor = _bare(original)
    _give(processor, layer)
    return processor


def _bare(original: Any) -> PatchedProcessor:
    processor = object.__new__(_patched_class(type(original)))
    # Set past nn.Module, which would take the original for a child.
    object.__setattr__(processor, "attnpatch_original", original)
    object.__setattr__(processor, "__dict__", original.__dict__)
    return processor


def _give(processor: PatchedProcessor, layer: JointLayer) -> None:
    """Tie a processor to its layer."""
    original = processor.attnpatch_original
    object.__setattr__(processor, "attnpatch_layer", layer)
    caller = object.__new__(_caller_class(type(original)))
    object.__setattr__(caller, "attnpatch_layer", layer)
    object.__setattr__(caller, "__dict__", original.__dict__)
    object.__setattr__(processor, "attnpatch_caller", caller)
    function = _function(type(original))
    if function is None:
        function = _function_of_torch(type(original), layer)
    object.__setattr__(processor, "attnpatch_function", function)


@functools.lru_cache(maxsize=64)
def _patched_class(original: type) -> type:
    def call(self: PatchedProcessor, *args: Any, **kwargs: Any) -> Any:
        return self.attnpatch_call(*args, **kwargs)

    # Attention layers hand over the keywords that the processor's signature names.
    call.__wrapped__ = original.__call__  # type: ignore[attr-defined]
    members = {"__slots__": (), "__call__": call}
    patched = type(f"Patched{original.__name__}", (PatchedProcessor, original), members)
    register_skipping(patched, original)
    return patched


@functools.lru_cache(maxsize=64)
def _caller_class(original: type) -> type:
    """Return the class of what the original's code has for itself.

    Processors hand their backend to `dispatch_attention_fn`, to say who attends: here the layer.
    """
    backend = property(lambda self: self.attnpatch_layer)
    members = {"__slots__": ("attnpatch_layer",), "_attention_backend": backend}
    return type(original.__name__, (original,), members)


@functools.lru_cache(maxsize=64)
def _function(original: type) -> types.FunctionType | None:
    """Return a processor's code with our dispatch in it; None: it does not dispatch."""
    return _with_names(original, {_DISPATCH: dispatch}, _DISPATCH)


def _function_of_torch(original: type, layer: JointLayer) -> types.FunctionType:
    """Return a processor's code that calls torch's attention with ours in the place of that."""
    function = _with_names(original, {"F": _Functional(layer)}, _TORCH)
    assert function is not None  # checked
    # Graphs tell functions apart by their code.
    code = function.__code__.replace(co_name=f"call_of_layer_{next(_numbers)}")
    return _copied(function, code, function.__globals__)


def _with_names(original: type, names: dict[str, Any], called: str) -> types.FunctionType | None:
    """Return ``__call__`` with other globals, and so the functions of its module that it uses.

    None: neither it nor they call anything of the name `called`.
    """
    call: Any = original.__call__
    if not isinstance(call, types.FunctionType):
        return None
    scope = {k: v for k, v in call.__globals__.items() if k != "__name__"}
    own = {
        name: value
        for name, value in scope.items()
        if isinstance(value, types.FunctionType)
        and value.__globals__ is call.__globals__
        and called in value.__code__.co_names
    }
    used = set(call.__code__.co_names)
    if called not in used and not used & own.keys():
        return None
    scope.update(names)
    scope.update({name: _copied(value, value.__code__, scope) for name, value in own.items()})
    return _copied(call, call.__code__, scope)


def _copied(
    function: types.FunctionType, code: types.CodeType, scope: dict[str, Any]
) -> types.FunctionType:
    made = types.FunctionType(
        code, scope, function.__name__, function.__defaults__, function.__closure__
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def dispatch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    attention_kwargs: dict[str, Any] | None = None,
    *,
    backend: Any = None,
    parallel_config: Any = None,
) -> Tensor:
    """Attend as `dispatch_attention_fn` does, where `backend` is the layer."""
    options = {
        "dropout_p": dropout_p,
        "is_causal": is_causal,
        "scale": scale,
        "enable_gqa": enable_gqa,
        "attention_kwargs": attention_kwargs,
        "parallel_config": parallel_config,
    }
    if torch.compiler.is_compiling():
        return _in_graph(backend, query, key, value, attn_mask, options)
    return backend.dispatch(query, key, value, attn_mask, options)


def _in_graph(
    layer: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    options: Mapping[str, Any],
) -> Tensor:
    given = [name for name in ("dropout_p", "is_causal", "enable_gqa") if options[name]]
    if given:
        raise ValueError(
            f"{', '.join(given)}: expected none in a patched model that is compiled; run it as it "
            "is, or take the patches off"
        )
    if options["scale"] is not None:  # the operator's is that of the head size
        q = q * (options["scale"] * q.shape[-1] ** 0.5)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return GraphSite(layer, layer.handle).attend(q, k, v, mask).transpose(1, 2)


class _Functional:
    """``torch.nn.functional`` for one layer: its attention is ours."""

    def __init__(self, layer: JointLayer) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(F, name)

    def scaled_dot_product_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attend from (batch, heads, tokens, size)."""
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        out = dispatch(
            *(q, k, v, attn_mask, dropout_p, is_causal, scale, enable_gqa), backend=self._layer
        )
        return out.transpose(1, 2)
