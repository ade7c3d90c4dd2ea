# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Keys of ours in a host's ``transformer_options``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DEGRADED = "attnpatch_degraded"
"""Where the options of a degraded pass say the place of its guidance, for each chunk."""

OTHERS = "attnpatch_others"
"""Where the options of a call hold what other packs put beside ours."""

SAMPLING = "attnpatch_sampling"
"""Where the options of a call hold the ``model_sampling`` of the model that is called."""

Others = Mapping[tuple[str, int], Callable[..., Any] | None]
"""(attention, layer) -> the callable to attend with; None: our own has been replaced."""


def own_options(model: Any, *names: str) -> dict[Any, Any]:
    """Return nested options of `model`; the way down is copied, for a clone may share it."""
    options = model.model_options = dict(model.model_options)
    for name in names:
        options[name] = dict(options.get(name, {}))
        options = options[name]
    return options
