# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Fooocus' own way to ask for image prompts: tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from attnpatch.hosts.fooocus import host
from attnpatch.patches import ImagePrompt


def patch_model(
    model: Any, tasks: Sequence[Any], *, compat: Literal["fooocus"] | None = None
) -> Any:
    """Return a clone of `model` that attends to pictures; `model` stays as it is.

    Parameters
    ----------
    model
        A ``ModelPatcher`` with an SD1.x, SD2.x or SDXL UNet. One that is patched already keeps its
        image prompts and gets these as well.
    tasks
        ``((conds, unconds), stop, weight)`` for each picture: keys and values as `preprocess` gives
        them; active while ``current_step < stop``; a weight of 0 is no prompt at all. The first
        dimension of conds is 1, or one picture for each row of the host's batch.
    compat
        "fooocus": do as the host's own file where it errs: leave slots alone in which a patch
        stands, and let image tokens of weight 0 take their share of attention.

    Raises
    ------
    ValueError
        Another `compat`; or if keys and values are not those of this model's layers; the message
        names both.
    """
    if compat not in (None, "fooocus"):
        raise ValueError(f"compat: expected None or 'fooocus', got {compat!r}")
    prompts = [_prompt(task, index, compat) for index, task in enumerate(tasks)]
    if not prompts:
        return model.clone()
    return host.patch_model(model, prompts, only_free=compat is not None)


def _prompt(task: Any, index: int, compat: Literal["fooocus"] | None) -> ImagePrompt:
    try:
        (conds, unconds), stop, weight = task
    except (TypeError, ValueError):
        raise ValueError(
            f"tasks[{index}]: expected ((conds, unconds), stop, weight), got {type(task).__name__}"
        ) from None
    for name, tensors in (("conds", conds), ("unconds", unconds)):
        if len(tensors) == 0 or len(tensors) % 2:
            raise ValueError(
                f"tasks[{index}]: expected k and v of each site in {name}, "
                f"got {len(tensors)} tensors"
            )
    stop = float(stop)
    return ImagePrompt.from_keys_values(
        list(zip(conds[::2], conds[1::2], strict=True)),
        list(zip(unconds[::2], unconds[1::2], strict=True)),
        weight=float(weight),
        end=min(max(stop, 0.0), 1.0),
        end_exclusive=stop <= 1.0,
        shared_softmax=True,
        compat=compat,
    )
