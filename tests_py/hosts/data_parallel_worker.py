# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""One of two processes that run a patched UNet in data parallel: STORE RANK."""

import sys

import torch
from attach_case import GUIDED, prompt
from diffusers_models import make_unet, unet_inputs
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import attnpatch as ap


def gradient(unet, model, ranks):
    """Backpropagate through `model`; returns its outputs and a gradient in the middle block."""
    weight = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q.weight
    outputs = []
    for rank in ranks:
        outputs.append(model(**unet_inputs(unet, seed=rank)).sample)
        (outputs[-1].square().sum() / len(ranks)).backward()
    return [out.detach() for out in outputs], weight.grad.clone()


def main(store, rank):
    torch.set_num_threads(1)
    alone, unet = make_unet().requires_grad_(True), make_unet().requires_grad_(True)
    with ap.attach(alone, prompt(), **GUIDED):
        expected, wanted = gradient(alone, alone, range(2))
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = DistributedDataParallel(unet)
    with ap.attach(model, prompt(), **GUIDED):
        (out,), found = gradient(unet, model, [rank])
    assert torch.equal(out, expected[rank])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert wanted.abs().max() > 0
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
