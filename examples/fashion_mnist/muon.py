# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""The Muon optimizer for matrices and convolutions, AdamW for the rest.

Muon (Jordan et al. 2024) replaces a matrix's momentum by the nearest orthogonal matrix, found by
five Newton-Schulz steps; the update's size is matched to AdamW's (Liu et al. 2025,
arXiv 2502.16982, section 2.2), so both halves share one learning rate. It reaches a given loss in
clearly fewer steps than AdamW, which counts on two CPU cores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Push the singular values of (K, rows, columns) matrices towards 1, by Newton-Schulz."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    Parameters
    ----------
    parameters : iterable of torch.nn.Parameter
        Of two or more dimensions; the trailing ones are flattened into columns.
    weight_decay : float
    momentum : float
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update every parameter that has a gradient; equal shapes share one batched product."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[torch.nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[(parameter.shape[0], parameter[0].numel())].append(parameter)
            for (rows, columns), parameters in shapes.items():
                momenta = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(parameter)
                    momentum = state["momentum"].lerp_(parameter.grad, 1.0 - group["momentum"])
                    ahead = parameter.grad.lerp(momentum, group["momentum"])
                    momenta.append(ahead.reshape(rows, columns))
                updates = orthogonalize(torch.stack(momenta)) * (0.2 * max(rows, columns) ** 0.5)
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"])
