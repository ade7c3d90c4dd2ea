# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attaching, detaching and copying, beside whatever else a UNet has."""

import copy
import threading
from unittest import mock

import pytest
import torch
from attach_case import GUIDED, original, prompt, run
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
)
from diffusers_models import (
    is_original,
    make_unet,
    storage_of,
    unet_inputs,
)

from attnpatch.engine import PatchStack, Weight
from attnpatch.hosts import attach, patch_model, report
from attnpatch.hosts.diffusers import share_weights


@pytest.fixture
def unet():
    return share_weights(original())


def hooks_of(unet):
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_forward_pre_hooks_with_kwargs")
    return [dict(getattr(unet, kind)) for kind in kinds]


def test_detach_restores_the_very_same_processors_and_hooks(unet):
    processors, hooks, state = unet.attn_processors, hooks_of(unet), set(unet.__dict__)
    attributes = [dict(p.__dict__) for p in processors.values()]
    plain = run(unet)
    with attach(unet, prompt(), **GUIDED) as attached:
        assert attached.attached
        assert not torch.equal(run(unet), plain)
    assert not attached.attached
    attached.detach()  # a second time does nothing
    found = unet.attn_processors
    assert found.keys() == processors.keys()
    assert all(found[name] is processors[name] for name in processors)
    assert [dict(p.__dict__) for p in found.values()] == attributes
    assert hooks_of(unet) == hooks
    assert set(unet.__dict__) == state
    assert torch.equal(run(unet), plain)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_attaching_adds_and_detaches_in_any_order(unet, order):
    plain = run(unet)
    prompts = [prompt(seed) for seed in range(3)]
    attached = [attach(unet, p, **GUIDED) for p in prompts]
    left = dict(enumerate(prompts))
    for i in order:
        with attach(share_weights(original()), list(left.values()), **GUIDED) as both:
            expected = run(both._denoiser)
        assert torch.equal(run(unet), expected)
        attached[i].detach()
        del left[i]
    assert torch.equal(run(unet), plain)
    assert is_original(unet)


def test_a_call_that_raises_leaves_no_state(unet):
    with attach(unet, prompt(), **GUIDED):
        expected = run(unet)
        with pytest.raises(RuntimeError):
            run(unet, encoder_hidden_states=torch.zeros(2, 7, 5))
        attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
        assert attention.processor.attnpatch_layer.patched.running.call is None
        assert torch.equal(run(unet), expected)


def test_weight_zero_and_closed_windows_are_bit_equal_to_unpatched(unet):
    plain = run(unet)
    for weight, options in [
        (0.0, {}),
        (1.0, {"start": 0.9}),
        (1.0, {"end": 0.2}),
        (torch.zeros(1), {}),
        (Weight(curve=[(0.0, 1.0), (0.3, 0.0)]), {}),
    ]:
        with attach(unet, prompt().replace(weight=weight, **options), **GUIDED):
            with mock.patch.object(AttnProcessor2_0, "__call__", autospec=True) as call:
                call.side_effect = lambda _, attn, x, *args, **kwargs: x
                run(unet)
            assert call.call_count == 32  # the originals were called
            assert torch.equal(run(unet), plain)


def test_a_layer_without_weight_calls_the_original(unet):
    only = prompt().replace(weight={"mid": 1.0})
    with attach(unet, only, **GUIDED) as attached:
        assert [layer.block for layer in attached.report.matched] == ["middle"]
        assert len(attached.report.wanted) == 16
        with mock.patch("attnpatch.engine.branches.attend") as fused:
            fused.side_effect = lambda q, *_: q
            run(unet)
        assert fused.call_count == 1


def test_patch_model_shares_all_weights_and_leaves_the_model(unet):
    plain, state = run(unet), set(unet.__dict__)
    twin = patch_model(unet, prompt(), **GUIDED)
    assert type(twin) is type(unet)
    assert storage_of(twin) == storage_of(unet)
    assert {id(p) for p in twin.parameters()} == {id(p) for p in unet.parameters()}
    assert is_original(unet)
    assert set(unet.__dict__) == state
    assert torch.equal(run(unet), plain)
    with attach(unet, prompt(), **GUIDED):
        expected = run(unet)
    assert torch.equal(run(twin), expected)
    assert twin.state_dict().keys() == unet.state_dict().keys()
    assert len(report(twin).matched) == 16
    assert len(report(unet).matched) == 0


def test_patching_a_patched_model_adds(unet):
    with attach(unet, [prompt(0), prompt(1)], **GUIDED):
        expected = run(unet)
    once = patch_model(unet, prompt(0), **GUIDED)
    alone = run(once)
    twice = patch_model(once, prompt(1))
    assert torch.equal(run(twice), expected)
    assert torch.equal(run(once), alone)
    for _ in range(3):  # no growth
        assert torch.equal(run(patch_model(once, prompt(1))), expected)


def test_a_deep_copy_is_patched_by_itself(unet):
    attached = attach(unet, prompt(), **GUIDED)
    expected = run(unet)
    twin = copy.deepcopy(unet)
    attached.detach()
    assert torch.equal(run(twin), expected)
    assert is_original(unet)
    assert not set(map(id, twin.parameters())) & set(map(id, unet.parameters()))


def test_two_threads_on_one_unet(unet):
    """Each has its own progress and batch; the window is open in one alone."""
    inputs = [{"timestep": torch.tensor(t)} for t in (900, 100)]
    inputs[1] |= {k: v for k, v in unet_inputs(unet, batch=4).items() if k != "timestep"}
    with attach(unet, prompt(start=0.5), **GUIDED):
        expected = [run(unet, **x) for x in inputs]
        found = [[], []]
        barrier = threading.Barrier(2)

        def work(i):
            for _ in range(4):
                barrier.wait()
                found[i].append(run(unet, **inputs[i]))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    for i in range(2):
        assert len(found[i]) == 4
        assert all(torch.equal(out, expected[i]) for out in found[i])
    assert torch.equal(run(unet, **inputs[0]), expected[0])
    assert not torch.equal(run(unet, **inputs[1]), expected[1])


def test_nothing_touches_the_global_generator(unet):
    before = torch.random.get_rng_state()
    with attach(unet, prompt(), **GUIDED):
        run(unet)
        patch_model(unet, prompt(1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_eager_processors_take_the_fused_pass(unet):
    with attach(unet, prompt(), **GUIDED):
        expected = run(unet)
    unet.set_attn_processor(AttnProcessor())  # one object for all layers
    shared = unet.attn_processors
    with attach(unet, prompt(), **GUIDED):
        with mock.patch("attnpatch.engine.branches.attend") as fused:
            fused.side_effect = lambda q, *_: q
            run(unet)
        assert fused.call_count == 16
        torch.testing.assert_close(run(unet), expected, rtol=0, atol=1e-5)
    assert all(unet.attn_processors[name] is shared[name] for name in shared)


def test_rows_of_a_batch(unet):
    """Chunks in any order; one picture for all, or one for each row of a chunk."""
    state = unet_inputs(unet, batch=6)
    image = prompt(pictures=3)
    with attach(unet, image, cond_or_uncond=(1, 0)):
        both = run(unet, **state)
    swapped = {k: v.roll(3, 0) if v.ndim else v for k, v in state.items()}
    with attach(unet, image, cond_or_uncond=(0, 1)):
        torch.testing.assert_close(run(unet, **swapped).roll(3, 0), both, rtol=0, atol=1e-5)
    half = {k: v[3:] if v.ndim else v for k, v in state.items()}
    with attach(unet, image, cond_or_uncond=(0,)):
        torch.testing.assert_close(run(unet, **half), both[3:], rtol=0, atol=1e-5)
    # Two images of each of three prompts stand next to each other.
    pairs = {k: v[3:].repeat_interleave(2, 0) if v.ndim else v for k, v in state.items()}
    with attach(unet, image, cond_or_uncond=(0,)):
        found = run(unet, **pairs)
    torch.testing.assert_close(found, both[3:].repeat_interleave(2, 0), rtol=0, atol=1e-5)


def test_training_with_checkpoints(unet):
    """Gradients pass through the patches, with and without gradient checkpointing."""
    weight = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q.weight
    twin = copy.deepcopy(unet).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            twin.enable_gradient_checkpointing()
        with attach(twin, prompt(), **GUIDED):
            attention = twin.mid_block.attentions[0].transformer_blocks[0].attn2
            attention.to_q.weight.requires_grad_(True)
            twin(**unet_inputs(twin)).sample.square().sum().backward()
            gradients.append(attention.to_q.weight.grad.clone())
            attention.to_q.weight.grad = None
    assert gradients[0].shape == weight.shape
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_bare_unet_must_be_told_which_rows_are_uncond(unet, batch):
    before = run(unet, **unet_inputs(unet, batch=batch))
    with attach(unet, prompt()), pytest.raises(ValueError, match="cond_or_uncond: expected to be"):
        run(unet, **unet_inputs(unet, batch=batch))
    same = prompt(roles=((1, "cond"),))  # it tells no kinds apart
    with attach(unet, same):
        found = run(unet, **unet_inputs(unet, batch=batch))
    with attach(unet, prompt(), cond_or_uncond=[0]):
        expected = run(unet, **unet_inputs(unet, batch=batch))
    assert torch.equal(found, expected) and not torch.equal(found, before)


def test_errors_name_what_is_wrong(unet):
    with pytest.raises(TypeError, match=r"expected a diffusers pipeline or UNet .* got .*Linear"):
        attach(torch.nn.Linear(2, 2), prompt())
    with pytest.raises(TypeError, match="patches"):
        attach(unet, ["prompt"])
    with pytest.raises(ValueError, match=r"the 70 layers of this UNet .* got one for 16 "):
        attach(make_unet("sdxl"), prompt())
    for wrong in [(), "10", (1, -1), (0.5,)]:
        with pytest.raises(
            ValueError, match="cond_or_uncond: expected 0 for cond and 1 for uncond"
        ):
            attach(unet, prompt(), cond_or_uncond=wrong)
    assert is_original(unet)
    with attach(unet, prompt(), cond_or_uncond=(1, 0)):
        with pytest.raises(ValueError, match=r"already has \(1, 0\), got \(0, 1\)"):
            attach(unet, prompt(), cond_or_uncond=(0, 1))
        with pytest.raises(ValueError, match=r"multiple of 2 rows, .* \(1, 0\), got 3 rows"):
            run(unet, **unet_inputs(unet, batch=3))
    assert is_original(unet)


def test_stacks_and_their_report(unet):
    stack = PatchStack([prompt(0), prompt(1)])
    with attach(unet, stack) as attached:
        assert attached.stack == stack
        assert "16 of 16 layers patched" in str(attached.report)
        assert "UNet2DConditionModel" in repr(attached)
        assert report(unet) == attached.report
