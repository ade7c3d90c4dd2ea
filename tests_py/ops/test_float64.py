# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""float64, which no kernel takes: the operators' references compute it, exactly."""

import pytest
import torch

from attnpatch.ops.branch_attention import branch_attention_flat


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shared_softmax", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_branch_attention(shared_softmax, masked):
    q, k, v = noise(2, 3, 5, 8), noise(2, 3, 7, 8, seed=1), noise(2, 3, 7, 8, seed=2)
    image_k, image_v = noise(2, 3, 4, 8, seed=3), noise(2, 3, 4, 8, seed=4)
    weights = torch.tensor([[0.3, 0.7]])
    masks = torch.linspace(0.1, 0.9, 5).reshape(1, 1, 5) if masked else None
    out = branch_attention_flat(
        q, k, v, [image_k], [image_v], [torch.arange(2)], weights, masks, shared_softmax
    )
    factor = weights.double()[0, :, None, None, None]
    factor = factor * (1.0 if masks is None else masks.double()[0, :, None, :, None])
    text, image = ((q @ keys.mT / 8**0.5).exp() for keys in (k, image_k))
    if shared_softmax:
        total = text.sum(-1, keepdim=True) + factor * image.sum(-1, keepdim=True)
        expected = (text @ v + factor * (image @ image_v)) / total
    else:
        expected = text @ v / text.sum(-1, keepdim=True)
        expected = expected + factor * (image @ image_v / image.sum(-1, keepdim=True))
    assert out.dtype is torch.float64
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-13)
