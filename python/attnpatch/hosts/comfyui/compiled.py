# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Networks that a host's node compiles, by graphs that do not look at the options of a call.

A newer host has the compiler leave out all guards on these options. Layers, steps, passes and
models of the same shapes then share a graph, whatever their options say; and there patches stand.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

__all__ = ["without_blind_graphs"]

logger = logging.getLogger("attnpatch")

_PLACE, _KEY = "apply_model", "torch.compile"  # where a host puts what compiles its network
_told: WeakSet[Callable[..., Any]] = WeakSet()  # who has been warned of


def without_blind_graphs(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a call without graphs that do not look at them, with a warning.

    Parameters
    ----------
    options
        The host's ``transformer_options``.

    Returns
    -------
    dict
        The same object where there are no such graphs.
    """
    wrappers = options.get("wrappers", {})
    compiling = wrappers.get(_PLACE, {}).get(_KEY, ())
    kept = [wrapper for wrapper in compiling if _looks_at_options(wrapper)]
    if len(kept) == len(compiling):
        return options
    for wrapper in compiling:
        if wrapper not in kept and wrapper not in _told:
            _told.add(wrapper)
            logger.warning(
                "torch.compile: off where patches act, for the node that compiles this model has "
                "its graphs ignore transformer_options: they would be one for all layers, steps "
                "and models of the same shapes, whatever patches do there"
            )
    return {**options, "wrappers": {**wrappers, _PLACE: {**wrappers[_PLACE], _KEY: kept}}}


def _looks_at_options(wrapper: Callable[..., Any]) -> bool:
    """Whether all that a wrapper compiled has guards of every kind; unknown: it has not."""
    try:
        held = inspect.getclosurevars(wrapper).nonlocals.values()
    except TypeError:
        return False
    modules = [m for these in held if isinstance(these, Mapping) for m in these.values()]
    hooks = [getattr(getattr(module, "dynamo_ctx", None), "_hooks", None) for module in modules]
    return bool(hooks) and all(
        hook is not None and getattr(hook, "guard_filter_fn", None) is None for hook in hooks
    )
