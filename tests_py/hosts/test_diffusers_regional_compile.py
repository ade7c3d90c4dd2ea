# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A UNet compiled by its repeated blocks: one graph serves all layers that are alike."""

import pytest
import torch
from diffusers_models import make_prompt, make_unet, unet_inputs
from one_graph import eager
from torch._dynamo.utils import counters

from attnpatch import PerturbedAttentionGuidance, SlothfulAttention, TokenMerging
from attnpatch.hosts import attach, patch_model

pytestmark = pytest.mark.slow  # compiling is

GUIDED = {"cond_or_uncond": (1, 0)}
# More blocks of a kind than dynamo compiles a function for before it gives up (8), of two widths.
MANY = {"transformer_layers_per_block": (1, 2, 4)}
SIZES = ((8, 8), (12, 10))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs():
    return counters["stats"]["unique_graphs"]


def compiled(unet):
    unet.compile_repeated_blocks(backend="eager", fullgraph=True)
    return unet


def calls():
    def call(size):
        def run(unet):
            with torch.no_grad():
                return unet(**unet_inputs(unet, size=size)).sample

        return run

    return [call(size) for size in SIZES]


def graphs_of_an_unpatched_unet():
    unet = compiled(make_unet("sdxl", **MANY))
    for call in calls():
        call(unet)
    found = graphs()
    torch._dynamo.reset()
    counters.clear()
    return found


STACKS = {
    # How many graphs more than unpatched, and stacks of which no further one makes any.
    "prompt": (
        2,
        lambda unet: [
            make_prompt(unet),
            make_prompt(unet, seed=5).replace(weight=0.3),
            make_prompt(unet, mask=torch.eye(8)),
            [make_prompt(unet, start=0.6), make_prompt(unet, seed=6)],
        ],
    ),
    "joint": (
        2,
        lambda unet: [make_prompt(unet, joint=True), make_prompt(unet, seed=3, joint=True)],
    ),
    "reduction": (
        4,
        lambda unet: [
            TokenMerging(ratio=0.5, max_depth=2),
            TokenMerging(ratio=0.2, max_depth=2),
        ],
    ),
    "all": (
        4,
        lambda unet: [
            [SlothfulAttention(), make_prompt(unet)],
            [SlothfulAttention(in_slothful=3.0), make_prompt(unet, mask=torch.eye(9), weight=0.2)],
        ],
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_alike_blocks_share_a_graph(name):
    plain = graphs_of_an_unpatched_unet()
    more, make_stacks = STACKS[name]
    unet = make_unet("sdxl", **MANY)
    stacks = make_stacks(unet)
    expected = eager(unet, stacks, calls())
    assert len({float(results[0].sum()) for results in expected}) == len(stacks)
    compiled(unet)
    made = []
    for stack, wanted in zip(stacks, expected, strict=True):
        # Detached and attached anew: nothing of an attachment is in a graph.
        with attach(unet, stack, **GUIDED):
            for call, one in zip(calls(), wanted, strict=True):
                torch.testing.assert_close(call(unet), one, rtol=0, atol=1e-5)
        made.append(graphs())
    assert made[0] <= plain + more
    assert set(made) == {made[0]}
    assert not counters["graph_break"]


def test_two_patched_copies_share_their_graphs():
    unet = make_unet("sdxl", **MANY)
    copies = [patch_model(unet, make_prompt(unet, seed=seed), **GUIDED) for seed in (1, 2)]
    call = calls()[0]
    expected = [call(one) for one in copies]
    assert not torch.equal(*expected)
    call(compiled(copies[0]))
    made = graphs()
    for one, wanted in zip(copies, expected, strict=True):
        torch.testing.assert_close(call(compiled(one)), wanted, rtol=0, atol=1e-5)
    assert graphs() == made


def test_guidance_in_a_compiled_unet():
    unet = make_unet("sdxl", **MANY)
    stacks = [PerturbedAttentionGuidance(2.0), PerturbedAttentionGuidance(9.0)]
    call = calls()[0]
    expected = eager(unet, stacks, [call])
    compiled(unet)
    made = []
    for stack, (wanted,) in zip(stacks, expected, strict=True):
        with attach(unet, stack, **GUIDED):
            torch.testing.assert_close(call(unet), wanted, rtol=0, atol=1e-4)
        made.append(graphs())
    assert made[0] == made[1]


def test_what_is_left_after_detaching_is_the_unet_itself():
    unet = compiled(make_unet("sdxl", **MANY))
    call = calls()[0]
    plain = call(unet)
    leftovers = []
    with attach(unet, [SlothfulAttention(), make_prompt(unet)], **GUIDED):
        call(unet)
        leftovers.append(dict(unet.attn_processors))
    torch.testing.assert_close(call(unet), plain)
    # As some pipelines do, that put away what they found while it was attached.
    unet.set_attn_processor(leftovers[0])
    torch.testing.assert_close(call(unet), plain)
