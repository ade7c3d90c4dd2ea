# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The degraded passes of diffusers UNets: what they are given, and what they are run beside."""

import functools
import threading

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0, SlicedAttnProcessor
from diffusers_models import is_original, make_prompt, make_unet, unet_inputs
from one_graph import assert_one_graph
from test_diffusers_compile import SMALL, compile_blocks, counters

from attnpatch import (
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SmoothedEnergyGuidance,
    recorded_attention,
)
from attnpatch.hosts import attach
from attnpatch.hosts.diffusers import share_weights

SAG = SelfAttentionGuidance(0.7)
PAG = PerturbedAttentionGuidance(20.0)
STACK = [SAG, PAG, SmoothedEnergyGuidance(20.0, blocks="m0,u3")]


@functools.cache
def unet_of(structure="sd1"):
    shallow = {"transformer_layers_per_block": (1, 1, 2)} if structure == "sdxl" else {}
    return make_unet(structure, **shallow)


def run(unet, inputs, **changes):
    with torch.no_grad():
        return unet(**(inputs | changes), return_dict=False)[0]


class Calls:
    """What a UNet was called with."""

    def __init__(self, unet):
        self.seen = []
        self.hook = unet.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        assert not args
        self.seen.append(kwargs)


def guided(unet, inputs, stack, chunks=(1, 0)):
    """Run guided; returns the output and the keywords of both calls."""
    calls = Calls(unet)
    with attach(unet, stack, cond_or_uncond=chunks):
        found = run(unet, inputs)
    calls.hook.remove()
    return found, calls.seen


@pytest.mark.parametrize("pictures", [1, 3])
def test_each_pass_has_the_rows_of_its_chunk(pictures):
    unet = unet_of("sdxl")
    inputs = unet_inputs(unet, batch=2 * pictures, size=(16, 16))
    inputs["timestep"] = torch.full((2 * pictures,), 500)
    found, (first, second) = guided(unet, inputs, [SAG, PAG])
    assert first["sample"] is inputs["sample"]
    uncond, cond = slice(0, pictures), slice(pictures, None)
    assert torch.equal(second["sample"][pictures:], inputs["sample"][cond])
    assert not torch.equal(second["sample"][:pictures], inputs["sample"][uncond])
    for name in ("encoder_hidden_states", "timestep"):
        assert torch.equal(second[name], inputs[name])
    for name, value in inputs["added_cond_kwargs"].items():
        assert torch.equal(second["added_cond_kwargs"][name], value)
    _, (_, alone) = guided(unet, inputs, PAG)
    assert torch.equal(alone["encoder_hidden_states"], inputs["encoder_hidden_states"][cond])
    added = alone["added_cond_kwargs"]["text_embeds"]
    assert torch.equal(added, inputs["added_cond_kwargs"]["text_embeds"][cond])
    change = found - run(unet, inputs)
    torch.testing.assert_close(change[uncond], change[cond], rtol=0, atol=1e-4)


def test_residuals_of_control_follow():
    unet = unet_of()
    inputs = unet_inputs(unet, batch=4)
    generator = torch.Generator().manual_seed(5)
    shapes = [(16, 16)] * 3 + [(16, 8)] + [(32, 8)] * 2 + [(32, 4)] * 3 + [(32, 2)] * 3
    down = [torch.randn(4, c, s, s, generator=generator) for c, s in shapes]
    inputs["down_block_additional_residuals"] = tuple(down)
    inputs["mid_block_additional_residual"] = torch.randn(4, 32, 2, 2, generator=generator)
    found, (_, second) = guided(unet, inputs, SAG)
    assert torch.equal(
        second["mid_block_additional_residual"], inputs["mid_block_additional_residual"][:2]
    )
    for part, whole in zip(second["down_block_additional_residuals"], down, strict=True):
        assert torch.equal(part, whole[:2])
    for row in range(2):
        one = {k: rows(v, row) for k, v in inputs.items()}
        alone = guided(unet, one, SAG)[0]
        torch.testing.assert_close(alone, found[[row, 2 + row]], rtol=0, atol=1e-4)


def rows(value, row):
    if isinstance(value, tuple):
        return tuple(rows(item, row) for item in value)
    return value[[row, 2 + row]] if value.dim() else value


def test_mask_and_picture_of_an_inpainting_model_stay():
    unet = make_unet(in_channels=9)
    inputs = unet_inputs(unet)
    generator = torch.Generator().manual_seed(6)
    inputs["sample"] = torch.randn(2, 9, 16, 16, generator=generator)
    found, (_, second) = guided(unet, inputs, SAG)
    assert found.shape == (2, 4, 16, 16)
    assert torch.equal(second["sample"][:, 4:], inputs["sample"][:1, 4:])
    assert not torch.equal(second["sample"][:, :4], inputs["sample"][:1, :4])


def test_the_degraded_pass_sees_the_same_image_prompts():
    unet = unet_of()
    inputs = unet_inputs(unet)
    prompt = make_prompt(unet, weight=1.5)
    with attach(unet, prompt, cond_or_uncond=(1, 0)):
        plain = run(unet, inputs)
    found, (_, second) = guided(unet, inputs, [prompt, SAG])
    for chunks, same in (((1,), True), ((0,), False)):
        with attach(share_weights(unet), prompt, cond_or_uncond=chunks) as attached:
            again = run(attached._denoiser, {k: v for k, v in second.items() if k != "return_dict"})
        # What guidance adds to epsilon: scale · (uncond − degraded).
        expected = plain + 0.7 * (plain[:1] - again)
        assert torch.allclose(found, expected, rtol=0, atol=1e-4) == same


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    unet = make_unet().to(dtype)
    inputs = unet_inputs(unet, dtype=dtype)
    stack = [SAG, PerturbedAttentionGuidance(1.0), SmoothedEnergyGuidance(1.0)]
    found = guided(unet, inputs, stack)[0]
    exact = guided(unet_of(), unet_inputs(unet_of()), stack)[0]
    assert found.dtype == dtype
    assert (found.float() - exact).abs().mean() < 0.05 * exact.std()


class DoubleValues:
    """A processor of someone else's."""

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None):
        context = x if encoder_hidden_states is None else encoder_hidden_states
        parts = attn.to_q(x), attn.to_k(context), 2.0 * attn.to_v(context)
        parts = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in parts)
        out = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


def processors(unet, kind):
    if kind == "fused":
        unet.fuse_qkv_projections()
    elif kind == "sliced":
        unet.set_attn_processor(SlicedAttnProcessor(1))
    elif kind == "foreign":
        unet.set_attn_processor(DoubleValues())
    elif kind == "double values":  # the same as a change of weights
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                if ".to_v." in name:
                    parameter.mul_(2.0)


@pytest.mark.parametrize(
    ("kind", "same_as"), [("fused", ""), ("sliced", ""), ("foreign", "double values")]
)
@pytest.mark.parametrize("guidance", [SAG, PAG, STACK[2]], ids=lambda g: type(g).__name__)
def test_processors_of_others(kind, same_as, guidance):
    """All that is not plain is asked for attention alone, of whatever queries."""
    found = {}
    for name in (kind, same_as):
        unet = make_unet()
        processors(unet, name)
        found[name] = guided(unet, unet_inputs(unet), guidance)[0]
    if kind == "foreign" and guidance is PAG:
        return  # the identity takes the processor's place, and its factor with it
    torch.testing.assert_close(found[kind], found[same_as], rtol=0, atol=1e-4)


def test_detaching_restores_and_stacks_come_and_go():
    unet = make_unet()
    before = dict(unet.attn_processors)
    inputs = unet_inputs(unet)
    plain = run(unet, inputs)
    first = attach(unet, SAG, cond_or_uncond=(1, 0))
    assert (
        sum(type(p) is AttnProcessor2_0 for p in unet.attn_processors.values()) == len(before) - 1
    )
    alone = run(unet, inputs)
    second = attach(unet, STACK[1:])
    assert first.attention.shape == (1, 2, 2)
    assert recorded_attention(unet) is first.attention
    assert not torch.equal(run(unet, inputs), alone)
    second.detach()
    assert torch.equal(run(unet, inputs), alone)
    first.detach()
    assert is_original(unet) and first.attention is not None
    assert all(unet.attn_processors[name] is p for name, p in before.items())
    assert torch.equal(run(unet, inputs), plain)


def test_two_models_in_two_threads():
    unets = [share_weights(unet_of()) for _ in range(2)]
    stacks = [[SAG], STACK]
    inputs = unet_inputs(unet_of())
    attached = [
        attach(unet, stack, cond_or_uncond=(1, 0))
        for unet, stack in zip(unets, stacks, strict=True)
    ]
    expected = [run(unet, inputs) for unet in unets]
    found = [[], []]

    def work(i):
        for _ in range(2):
            found[i].append(run(unets[i], inputs))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, wanted in zip(found, expected, strict=True):
        assert len(results) == 2
        for result in results:
            torch.testing.assert_close(result, wanted)
    for one in attached:
        one.detach()


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compile_whole(unet):
    return torch.compile(unet, backend="eager", fullgraph=True)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("compiler", [compile_whole, compile_blocks], ids=["whole", "blocks"])
def test_compiled(compiler):
    """One graph for the ordinary pass, and none anew when scale or time change."""
    structure = SMALL | {"mid_block_type": "UNetMidBlock2DCrossAttn"}
    unet = make_unet(**structure)
    inputs = unet_inputs(unet)
    times = inputs["timestep"], torch.tensor(9)
    stacks = [[SAG, PAG], [SelfAttentionGuidance(0.2, blur_sigma=1.0), PAG]]
    expected = [[guided(unet, inputs | {"timestep": t}, s)[0] for t in times] for s in stacks]
    calls = [lambda net, t=time: run(net, inputs, timestep=t) for time in times]
    assert_one_graph(compiler(unet), unet, stacks, calls, expected, tolerance=1e-4)
