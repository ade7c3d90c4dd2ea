# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A compiled UNet keeps its graph whatever of ours is attached to it."""

import torch
from torch._dynamo.utils import counters

from attnpatch.hosts import attach


def eager(unet, stacks, calls):
    """Give what `calls` of the UNet give with each stack, not compiled."""
    found = []
    for stack in stacks:
        with attach(unet, stack, cond_or_uncond=(1, 0)):
            found.append([call(unet) for call in calls])
    return found


def assert_one_graph(compiled, unet, stacks, calls, expected, tolerance=1e-5):
    """Attach one stack after the other; each of `calls`, given the UNet, gives what is expected."""
    attached = attach(unet, stacks[0], cond_or_uncond=(1, 0))
    calls[0](compiled)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    for stack, wanted in zip(stacks, expected, strict=True):
        following = attach(unet, stack)
        attached.detach()
        attached = following
        for call, one in zip(calls, wanted, strict=True):
            torch.testing.assert_close(call(compiled), one, rtol=0, atol=tolerance)
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]
    attached.detach()
