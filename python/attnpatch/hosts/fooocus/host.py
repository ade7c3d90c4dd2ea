# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Patches in a Fooocus model: its attention, its schedule, its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor

from attnpatch.engine import LayerTable, Patch, PatchStack, Report, SamplingPoint, layer_table
from attnpatch.hosts.comfyui.optimized_attention import OptimizedAttention
from attnpatch.hosts.comfyui.patched_model import ExtraOptions
from attnpatch.hosts.comfyui.unet.install import find_patched_model, install
from attnpatch.hosts.comfyui.unet.layers import has_sd_names, read_layer_table
from attnpatch.patches import Guidance, ImagePrompt

_LAST_TIMESTEP = 999.0

sdp = OptimizedAttention("ldm_patched.ldm.modules.attention")
"""Attends by the attention that the host has chosen for its machine."""


def is_host(model: Any) -> bool:
    """Whether `model` is a ``ModelPatcher`` of Fooocus; told without importing it."""
    return any(base.__module__.split(".")[0] == "ldm_patched" for base in type(model).__mro__)


def patch_model(
    model: Any,
    patches: Patch | Sequence[Patch],
    *,
    cond_or_uncond: Sequence[int] | None = None,
    only_free: bool = False,
) -> Any:
    """Return a clone of `model` with patches; `model` stays as it is.

    Parameters
    ----------
    model
        A ``ModelPatcher`` with a UNet of Stable Diffusion. Patches that it has stay.
    patches
        One patch, a sequence of patches, or a ``PatchStack``.
    cond_or_uncond
        None: the host itself tells in every call.
    only_free
        Leave layers alone that have another patch.

    Raises
    ------
    ValueError
        If the patches are made for other layers than the model has; the message names both.
    """
    if cond_or_uncond is not None:
        raise ValueError("cond_or_uncond: Fooocus tells it in every call; expected None")
    stack = PatchStack(patches)
    guidance = [type(patch).__name__ for patch in stack if isinstance(patch, Guidance)]
    if guidance:
        raise ValueError(
            f"patches: Fooocus calls nothing after classifier-free guidance, which "
            f"{guidance[0]} needs; use ComfyUI or diffusers"
        )
    return install(
        model,
        stack,
        table=_table_of(model.model.diffusion_model, stack),
        schedule=lambda _: StepSchedule(model.model),
        host_attention=sdp,
        only_free=only_free,
    )


def attach(model: Any, *_: Any, **__: Any) -> NoReturn:
    """Raise TypeError: models of this host are cloned, not changed."""
    raise TypeError(
        f"model: a {type(model).__qualname__} of Fooocus is not patched in place; "
        "use patch_model, which gives a patched clone"
    )


def detach(model: Any) -> NoReturn:
    """Raise TypeError: models of this host are cloned, not changed."""
    raise TypeError(
        f"model: a {type(model).__qualname__} of Fooocus is not patched in place, so that there is "
        "nothing to detach; patch_model left the model that it was given as it was: use that one"
    )


def attached(model: Any) -> PatchStack:
    """Return the patches that a clone has, in order."""
    group = find_patched_model(model)
    return PatchStack() if group is None else group.run.stack


def report(model: Any) -> Report:
    """Return which layers of a model are patched, and which are not and why."""
    group = find_patched_model(model)
    return PatchStack().bind(layer_table("sdxl")).report() if group is None else group.run.report()


class StepSchedule:
    """Reads how far sampling is off the host's UNet, once in each of its calls.

    Parameters
    ----------
    model
        The host's ``BaseModel``, whose ``diffusion_model.current_step`` its forward sets anew.
    """

    early = False

    def __init__(self, model: Any) -> None:
        self._model = model
        self._latest: tuple[object, object, SamplingPoint] | None = None

    def __call__(self, options: ExtraOptions) -> tuple[SamplingPoint, ...]:
        """Return progress and timestep. Reading a tensor waits for the device: once a call."""
        step = getattr(self._model.diffusion_model, "current_step", None)
        sigmas = options.get("sigmas")
        latest = self._latest
        if latest is None or latest[0] is not step or latest[1] is not sigmas:
            latest = self._latest = (step, sigmas, self._read(step, sigmas))
        return (latest[2],)

    def _read(self, step: Tensor | None, sigmas: Tensor | None) -> SamplingPoint:
        if step is None:  # a host that does not set it
            if sigmas is None:
                raise ValueError(
                    "model: its diffusion_model has no current_step, and extra_options no sigmas; "
                    "one of them must tell how far sampling is"
                )
            step = 1.0 - self._model.model_sampling.timestep(sigmas) / _LAST_TIMESTEP
        progress = min(max(float(step.reshape(-1)[0]), 0.0), 1.0)
        return SamplingPoint(progress, timestep=(1.0 - progress) * _LAST_TIMESTEP)


def _table_of(unet: Any, stack: PatchStack) -> LayerTable:
    """Return the model's layers: as its UNet shows them, else as keys and values suggest."""
    if has_sd_names(unet):
        return read_layer_table(unet)
    for patch in stack:
        channels = patch.keys_values.channels if isinstance(patch, ImagePrompt) else ()
        for family in ("sd1", "sdxl"):
            if layer_table(family).channels == channels:
                return layer_table(family)
    raise ValueError(
        f"model: {type(unet).__name__} does not tell which layers it has, and the patches are not "
        "made for those of SD1.x, SD2.x or SDXL"
    )
