# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A patched UNet under torch.compile: one graph, and none anew when anything of ours changes."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers_models import make_prompt, make_unet, unet_inputs
from one_graph import assert_one_graph, eager
from torch._dynamo.exc import Unsupported
from torch._dynamo.utils import counters

from attnpatch import ImagePrompt, NearSightedAttention, SlothfulAttention
from attnpatch.hosts import attach

pytestmark = pytest.mark.slow  # compiling is

# One block each way.
SMALL = {
    "down_block_types": ("CrossAttnDownBlock2D",),
    "mid_block_type": None,
    "up_block_types": ("CrossAttnUpBlock2D",),
    "block_out_channels": (16,),
    "layers_per_block": 1,
}


def compile_whole(unet):
    return torch.compile(unet, backend="aot_eager", fullgraph=True)


def compile_blocks(unet):
    unet.compile_repeated_blocks(backend="aot_eager", fullgraph=True)
    return unet


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def run(unet, inputs, **changes):
    with torch.no_grad():
        return unet(**(inputs | changes)).sample


@pytest.mark.parametrize(("compiler", "joint"), [(compile_whole, False), (compile_blocks, True)])
def test_one_graph_for_all_weights_windows_and_pictures(compiler, joint):
    unet = make_unet(**SMALL)
    inputs = unet_inputs(unet)
    stacks = [
        make_prompt(unet, joint=joint),
        make_prompt(unet, seed=5, joint=joint).replace(weight=0.3),
        make_prompt(unet, joint=joint, start=0.6),
        [make_prompt(unet, joint=joint, mask=torch.eye(8)), make_prompt(unet, seed=6)],
    ]
    calls = [lambda net: run(net, inputs), lambda net: run(net, inputs, timestep=torch.tensor(9))]
    expected = eager(unet, stacks, calls)
    assert_one_graph(compiler(unet), unet, stacks, calls, expected)


# On a grid of 18 × 20: tiles and pooling, pooling alone, both beside a prompt.
NEAR = NearSightedAttention(base_tile_size=16, peak_tile_size=16, in_slothful=3.0, seed=1)
SLOTHFUL = SlothfulAttention(out_k_blend=0.5, out_v_blend=0.2, out_mode="1D_MAX")


@pytest.mark.parametrize(("compiler", "prompted"), [(compile_whole, False), (compile_blocks, True)])
def test_one_graph_for_all_strengths_of_reduction(compiler, prompted):
    """How many tokens are left follows the time and the parameters: no graph depends on it."""
    unet = make_unet(**SMALL)
    inputs = unet_inputs(unet, size=(18, 20))
    prompts = [make_prompt(unet)] if prompted else []
    calls = [lambda net, t=time: run(net, inputs, timestep=torch.tensor(t)) for time in (600, 250)]
    stacks = [[*prompts, patch] for patch in (NEAR, SLOTHFUL, replace(NEAR, in_slothful=9.0))]
    expected = eager(unet, stacks, calls)
    assert (expected[0][0] - run(unet, inputs)).abs().max() > 1e-3
    assert_one_graph(compiler(unet), unet, stacks, calls, expected)


class Doubled:
    """A processor of someone else's."""

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None):
        return 2.0 * AttnProcessor2_0()(attn, x, encoder_hidden_states, attention_mask)


def test_foreign_processors_compile_as_well():
    unet = make_unet(**SMALL)
    unet.set_attn_processor(Doubled())
    inputs = unet_inputs(unet)
    with attach(unet, make_prompt(unet), cond_or_uncond=(1, 0)):
        expected = run(unet, inputs)
        found = run(compile_blocks(unet), inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("trained", ["tokens", "latent"])
def test_gradients_break_the_graph_or_say_so(trained):
    unet = make_unet(**SMALL)
    prompt, inputs = make_prompt(unet), unet_inputs(unet)
    if trained == "latent":
        leaf = inputs["sample"].requires_grad_()
    else:
        layers = prompt.keys_values.parts[0].layers
        cond, uncond = ([(k[row], v[row]) for k, v in layers] for row in ([0], [1]))
        leaf = cond[0][1].requires_grad_()
        prompt = ImagePrompt.from_keys_values(cond, uncond)
    patches = [prompt, SlothfulAttention()]

    def gradient(net):
        return torch.autograd.grad(net(**inputs).sample.square().sum(), leaf)[0]

    with attach(unet, patches, cond_or_uncond=(1, 0)):
        expected = gradient(unet)
        found = gradient(torch.compile(unet, backend="aot_eager"))
        torch._dynamo.reset()  # else it takes the code that it has
        with pytest.raises(Unsupported, match="without fullgraph=True"):
            gradient(compile_whole(unet))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_operators_are_what_the_compiler_expects():
    q, k, v = (torch.randn(2, 2, n, 8) for n in (5, 3, 3))
    operators = torch.ops.attnpatch_diffusers
    handle = torch.tensor(-1)  # no layer's: plain attention, and no terms
    torch.library.opcheck(operators.attend.default, (q, k, v, handle))
    torch.library.opcheck(operators.terms.default, (q, k, v, handle))
    torch.library.opcheck(operators.terms.default, (q, None, None, handle))
    text = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    found = operators.attend(q, k, v, handle)
    assert torch.equal(found, text.transpose(1, 2).flatten(2))
    assert not operators.terms(q, k, v, handle).any()
