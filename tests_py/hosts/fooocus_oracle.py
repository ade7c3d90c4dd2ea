# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An image prompt that shares the text's softmax, in float64; tasks to try it on."""

from __future__ import annotations

import protocol_host as host
import pytest
import torch

WIDTH = 16
STRUCTURES = pytest.mark.parametrize("structure", [host.SD1, host.SDXL], ids=["sd1", "sdxl"])


def make_task(structure, width, *, tokens=4, pictures=1, stop=1.0, weight=1.0, seed=1):
    """Return ((conds, unconds), stop, weight) with random keys and values for each site."""
    generator = torch.Generator().manual_seed(seed)

    def keys_and_values(rows):
        shapes = [(rows, tokens, multiplier * width) for _, multiplier, _ in structure.sites()]
        return [torch.randn(s, generator=generator) for s in shapes for _ in ("k", "v")]

    return (keys_and_values(pictures), keys_and_values(1)), stop, weight


def joint_attention(q, k, v, heads, *, tasks, number, chunks, progress):
    """Attend as the shared softmax says: one softmax over the text and all active image tokens.

    q (B, N, C), k and v (B, T, C); `number` is the site's place in checkpoint order.
    """
    dtype, channels = q.dtype, q.shape[-1]
    q, k, v = (x.double() for x in (q, k, v))
    keys, values = [k], [v]
    rows = len(q) // len(chunks)
    for (conds, unconds), stop, weight in tasks:
        if progress >= stop:
            continue
        factor = weight * channels / 1280
        for many, place in ((keys, 2 * number), (values, 2 * number + 1)):
            picked = [(unconds if chunk else conds)[place].double() for chunk in chunks]
            image = torch.cat([x.expand(rows, -1, -1) for x in picked])
            if many is keys:
                image = image * factor
            else:
                mean = image.mean(1, keepdim=True)
                image = (image - mean) + mean * factor
            many.append(image)
    split = [x.unflatten(-1, (heads, -1)) for x in (q, torch.cat(keys, 1), torch.cat(values, 1))]
    scores = torch.einsum("bnhd,bthd->bhnt", split[0], split[1]) / split[0].shape[-1] ** 0.5
    out = torch.einsum("bhnt,bthd->bnhd", scores.softmax(-1), split[2])
    return out.flatten(-2).to(dtype)


def split_pairs(tensors):
    """Turn k, v, k, v, … into pairs."""
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def relative(ours, expected):
    return float((ours - expected).abs().max() / expected.abs().max())


def strong(weight):
    """Undo the channels' part in the weight, so that narrow hosts feel the picture."""
    return weight * 1280 / WIDTH


def record_slots(model):
    """Let every slot note what it is called with and what it gives."""
    calls = {}

    def recorded(key, slot):
        def call(q, k, v, options):
            out = slot(q, k, v, options)
            assert key not in calls, "a site was called twice"
            calls[key] = (q, k, v, dict(options), out)
            return out

        return call

    slots = model.slots()
    slots.update({key: recorded(key, slot) for key, slot in slots.items()})
    return calls
