# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch

from fashion_mnist.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(3, 5, 5), (1, 32, 7), (2, 7, 32), (1, 96, 1440)])
def test_singular_values_are_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    # The five steps' polynomial maps into this band, not to 1 itself; tiny values come from below.
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_zero_stays_zero():
    assert orthogonalize(torch.zeros(1, 4, 6)).eq(0.0).all()


def test_solves_least_squares():
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(8, 6, generator=generator)
    inputs = torch.randn(64, 6, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(8, 6))
    optimizer = Muon([weight])
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 0.3 * (1 - step / 300)
        loss = (inputs @ (weight - wanted).T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


def test_equal_shapes_are_updated_independently():
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(4, 3, 3, 3, generator=generator) for _ in range(2)]
    grads = [torch.randn(4, 3, 3, 3, generator=generator) for _ in range(2)]

    def updated(indices):
        parameters = [torch.nn.Parameter(starts[i].clone()) for i in indices]
        for parameter, i in zip(parameters, indices, strict=True):
            parameter.grad = grads[i].clone()
        Muon(parameters, lr=0.1, weight_decay=0.1).step()
        return [parameter.detach() for parameter in parameters]

    together = updated([0, 1])
    torch.testing.assert_close(together[0], updated([0])[0])
    torch.testing.assert_close(together[1], updated([1])[0])
