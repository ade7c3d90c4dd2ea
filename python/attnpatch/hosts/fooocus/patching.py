# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image prompts in a Fooocus model: its tasks as patches, its attention, its clock."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from attnpatch.hosts.replace_slots import ExtraOptions, fill_slots
from attnpatch.hosts.sd_unet import has_sd_names, read_layer_table
from attnpatch.patches import ImagePrompt, LayerTable, layer_table

_LAST_TIMESTEP = 999.0


def sdp(q: Tensor, k: Tensor, v: Tensor, extra_options: ExtraOptions) -> Tensor:
    """Attend by the attention that the host has chosen for its machine.

    Parameters
    ----------
    q, k, v
        (B, N, C), (B, T, C), (B, T, C).
    extra_options
        ``n_heads`` is read.
    """
    heads = extra_options["n_heads"]
    host = sys.modules.get("ldm_patched.ldm.modules.attention")
    if host is not None:
        return host.optimized_attention(q, k, v, heads=heads, mask=None)
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)


def patch_model(model: Any, tasks: Sequence[Any], *, reference_quirks: bool = False) -> Any:
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
    reference_quirks
        Do as the host's own file where it errs: leave slots alone in which a patch stands, and let
        image tokens of weight 0 take their share of attention.

    Raises
    ------
    ValueError
        If keys and values are not those of this model's layers; the message names both.
    """
    prompts = [_prompt(task, place, reference_quirks) for place, task in enumerate(tasks)]
    if not prompts:
        return model.clone()
    return fill_slots(
        model,
        prompts,
        table=_table_of(model, prompts[0]),
        clock=StepClock(model.model),
        plain=sdp,
        only_free=reference_quirks,
    )


class StepClock:
    """Reads how far sampling is off the host's UNet, once in each of its calls.

    Parameters
    ----------
    model
        The host's ``BaseModel``, whose ``diffusion_model.current_step`` its forward sets anew.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._latest: tuple[object, object, float] | None = None

    def __call__(self, options: ExtraOptions) -> float:
        """Return the progress, 0 to 1. Reading a tensor waits for the device: once a call."""
        step = getattr(self._model.diffusion_model, "current_step", None)
        sigmas = options.get("sigmas")
        latest = self._latest
        if latest is None or latest[0] is not step or latest[1] is not sigmas:
            latest = self._latest = (step, sigmas, self._read(step, sigmas))
        return latest[2]

    def _read(self, step: Tensor | None, sigmas: Tensor | None) -> float:
        if step is None:  # a host that does not set it
            if sigmas is None:
                raise ValueError(
                    "model: its diffusion_model has no current_step, and extra_options no sigmas; "
                    "one of them must tell how far sampling is"
                )
            step = 1.0 - self._model.model_sampling.timestep(sigmas) / _LAST_TIMESTEP
        return min(max(float(step.reshape(-1)[0]), 0.0), 1.0)


def _prompt(task: Any, place: int, reference_quirks: bool) -> ImagePrompt:
    try:
        (conds, unconds), stop, weight = task
    except (TypeError, ValueError):
        raise ValueError(
            f"tasks[{place}]: expected ((conds, unconds), stop, weight), "
            f"given {type(task).__name__}"
        ) from None
    for name, tensors in (("conds", conds), ("unconds", unconds)):
        if len(tensors) == 0 or len(tensors) % 2:
            raise ValueError(
                f"tasks[{place}]: expected k and v of each site in {name}, "
                f"given {len(tensors)} tensors"
            )
    stop = float(stop)
    return ImagePrompt.from_keys_values(
        list(zip(conds[::2], conds[1::2], strict=True)),
        list(zip(unconds[::2], unconds[1::2], strict=True)),
        weight=float(weight),
        end=min(max(stop, 0.0), 1.0),
        end_exclusive=stop <= 1.0,
        joint=True,
        reference_quirks=reference_quirks,
    )


def _table_of(model: Any, prompt: ImagePrompt) -> LayerTable:
    """Return the model's layers: as its UNet shows them, else as the keys and values suggest."""
    unet = model.model.diffusion_model
    if has_sd_names(unet):
        return read_layer_table(unet)
    channels = prompt.keys_values.channels
    for family in ("sd1", "sdxl"):
        if layer_table(family).channels == channels:
            return layer_table(family)
    raise ValueError(
        f"tasks: keys and values of {len(channels)} sites are of no known model, and "
        f"{type(unet).__name__} does not tell which layers it has"
    )
