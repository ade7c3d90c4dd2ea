# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a UNet's output says of the clean picture, whatever it was trained to predict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnpatch.engine.cache import upload
from attnpatch.hosts.diffusers.schedule import Schedule


class Prediction(NamedTuple):
    """How input, output and clean picture (x0) hang together at one noise level.

    x0 = keep · input + turn · output; a change of x0 changes the noisy input by signal times that.
    Numbers, or tensors of one for each row of the batch.
    """

    keep: float | Tensor
    turn: float | Tensor
    signal: float | Tensor

    def clean(self, sample: Tensor, output: Tensor) -> Tensor:
        """Return x0 in float32 from what the UNet was given and gave."""
        return self.keep * sample.float() + self.turn * output.float()

    def of(self, rows: Sequence[int]) -> Prediction:
        """Return that of some rows of the batch."""
        return Prediction(*(x[list(rows)] if isinstance(x, Tensor) else x for x in self))

    @classmethod
    def of_rows(
        cls,
        sigmas: Sequence[float],
        schedule: Schedule,
        config: Mapping[str, Any],
        like: Tensor,
    ) -> Prediction:
        """Tell it for the noise levels of a batch: one for all rows of `like`, or one for each."""
        by_row = [cls.at(sigma, schedule, config) for sigma in sigmas]
        if len(by_row) == 1:
            return by_row[0]
        shape = (-1, *[1] * (like.dim() - 1))
        columns = zip(*by_row, strict=True)
        return cls(
            *(upload(torch.tensor(c, device="cpu"), like.device).view(shape) for c in columns)
        )

    @classmethod
    def at(cls, sigma: float, schedule: Schedule, config: Mapping[str, Any]) -> Prediction:
        """Tell it for a noise level.

        Parameters
        ----------
        sigma
            Of the moment.
        schedule
            Where the moment comes from.
        config
            Of the scheduler, empty for none: noise is predicted then. Whatever it is, what reaches
            the UNet has been scaled to unit variance.

        Raises
        ------
        ValueError
            For a ``prediction_type`` that is not known.
        """
        if schedule.flow:  # input = (1 − sigma) x0 + sigma noise, output = noise − x0
            return cls(1.0, -sigma, 1.0 - sigma)
        predicts = config.get("prediction_type", "epsilon")
        # Karras et al. 2022 (arXiv 2206.00364), table 1: noise is measured by the data's own.
        data = config["sigma_data"] if schedule.edm else 1.0
        signal = 1.0 / math.hypot(1.0, sigma / data)
        noise = signal * sigma / data
        if predicts == "v_prediction":
            return cls(data * signal, -data * noise, signal / data)
        if predicts == "epsilon":
            if schedule.edm:
                return cls(data * signal, data * noise, signal / data)
            return cls(1.0 / signal, -sigma, signal)
        if predicts == "sample":
            return cls(0.0, 1.0, signal / data)
        raise ValueError(
            "scheduler: guidance knows the prediction types epsilon, v_prediction and sample, "
            f"got {predicts!r}"
        )
