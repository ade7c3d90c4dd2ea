# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Where sampling stands: timestep, sigma and progress of a UNet call, without waiting for a GPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from attnpatch.engine import SamplingPoint

# The schedule of SD1.x, SD2.x and SDXL, for UNets that are used without a scheduler.
_TRAIN_STEPS = 1000
_BETA_START, _BETA_END = 0.00085, 0.012

_LARGEST_STORAGE = 1 << 20  # bytes; a list of timesteps is far smaller


class TimestepReader:
    """Reads the timestep of a call from the tensor that the UNet was given.

    Pipelines loop over a tensor of timesteps: what they hand over is a view of one of its
    elements. So the whole storage is copied to the host when it is first seen, once a run; from
    then on the view's offset tells its value, and a GPU is never waited for.
    """

    def __init__(self) -> None:
        # The tensor is kept, so that its memory cannot be given to another one meanwhile.
        self._latest: tuple[tuple[object, ...], Tensor, list[float], set[int]] | None = None

    def __call__(self, timestep: Tensor | float) -> tuple[float, ...]:
        """Return the timesteps: one for all rows of the batch, or one for each."""
        if not isinstance(timestep, Tensor):
            return (float(timestep),)
        if timestep.device.type == "meta":  # nobody knows what it holds
            return (0.0,)
        if timestep.device.type == "cpu" or timestep.untyped_storage().nbytes() > _LARGEST_STORAGE:
            numbers = timestep.detach().reshape(-1).tolist()
        else:
            numbers = self.read_by_offset(timestep)
        return tuple(map(float, numbers if len(set(numbers)) > 1 else numbers[:1]))

    def read_by_offset(self, timestep: Tensor) -> list[float]:
        """Return the elements, by a host copy of the storage that they lie in."""
        storage = timestep.untyped_storage()
        version = None if timestep.is_inference() else timestep._version
        key = (timestep.device, timestep.dtype, storage.data_ptr(), storage.nbytes(), version)
        first = timestep.storage_offset()
        latest = self._latest  # one read: another thread may put a new one at any time
        # Tensors of inference mode have no version: what is read again may be written meanwhile.
        if latest is None or latest[0] != key or (version is None and first in latest[3]):
            whole = torch.empty(0, dtype=timestep.dtype, device=timestep.device).set_(storage)
            latest = self._latest = (key, timestep, whole.tolist(), set())
        latest[3].add(first)
        if timestep.dim() == 0:
            return [latest[2][first]]
        step = timestep.stride(0)
        return [latest[2][first + row * step] for row in range(timestep.shape[0])]


class Schedule:
    """Sigma and progress of a timestep, by a scheduler's own noise schedule.

    Parameters
    ----------
    scheduler
        A scheduler of diffusers, or None for the schedule of Stable Diffusion.
    """

    def __init__(self, scheduler: Any = None) -> None:
        config = getattr(scheduler, "config", {})
        alphas = getattr(scheduler, "alphas_cumprod", None)
        self._log_sigmas: list[float] = []
        self._edm_range: tuple[float, float] | None = None
        if alphas is not None:
            self._log_sigmas = _log_sigmas(alphas.tolist())
        elif scheduler is None:
            self._log_sigmas = _log_sigmas(_stable_diffusion_alphas())
        elif config.get("sigma_data") is not None:
            self._edm_range = (math.log(config["sigma_min"]), math.log(config["sigma_max"]))
        self.edm = self._edm_range is not None
        """Whether the UNet is preconditioned as Karras et al. 2022 (arXiv 2206.00364) have it."""
        self.flow = not self.edm and not self._log_sigmas
        """Whether it predicts a flow from picture to noise, sigma being the share of the noise."""
        self._steps = len(self._log_sigmas) or int(config.get("num_train_timesteps", _TRAIN_STEPS))

    def __call__(self, timestep: float) -> SamplingPoint:
        """Return the point of a timestep.

        Progress is meant as start and end percents of patches are: percent p stands for the
        timestep (1 - p) (T - 1) of T training steps.
        """
        if self._edm_range is not None:
            # Schedulers of Karras et al. 2022 (arXiv 2206.00364) hand over c_noise = ln(sigma) / 4.
            low, high = self._edm_range
            log_sigma = 4.0 * timestep
            return SamplingPoint(
                _unit((high - log_sigma) / (high - low)), math.exp(log_sigma), timestep
            )
        progress = _unit(1.0 - timestep / (self._steps - 1))
        if self.flow:  # the timestep is the noise level
            return SamplingPoint(progress, timestep / self._steps, timestep)
        return SamplingPoint(progress, math.exp(self._log_sigma(timestep)), timestep)

    def _log_sigma(self, timestep: float) -> float:
        """Interpolate, as schedulers do that work between the steps of training."""
        last = len(self._log_sigmas) - 1
        step = min(max(timestep, 0.0), float(last))
        low = min(int(step), last - 1)
        share = step - low
        return (1.0 - share) * self._log_sigmas[low] + share * self._log_sigmas[low + 1]


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _log_sigmas(alphas: list[float]) -> list[float]:
    # The last alpha of a schedule with zero terminal signal is 0: keep its sigma finite.
    return [0.5 * (math.log1p(-min(a, 1 - 1e-12)) - math.log(max(a, 1e-12))) for a in alphas]


def _stable_diffusion_alphas() -> list[float]:
    low, high = math.sqrt(_BETA_START), math.sqrt(_BETA_END)
    alphas, product = [], 1.0
    for i in range(_TRAIN_STEPS):
        product *= 1.0 - (low + (high - low) * i / (_TRAIN_STEPS - 1)) ** 2
        alphas.append(product)
    return alphas
