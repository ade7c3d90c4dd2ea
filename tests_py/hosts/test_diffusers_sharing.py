# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Copies share every tensor and have hooks of their own, whoever put those there."""

import functools
import itertools
import threading
from types import SimpleNamespace

import accelerate
import pytest
import torch
from attach_case import GUIDED, prompt, run
from diffusers.hooks import HookRegistry, ModelHook
from diffusers_models import is_original, make_unet, storage_of
from torch import nn

import attnpatch as ap
from attnpatch.hosts.diffusers import share_weights

CPU = torch.device("cpu")


def offload_by_blocks(unet):
    unet.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type="block_level", num_blocks_per_group=1
    )


def offload_leaves(unet):
    unet.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


def cast_layers(unet):
    unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


def offload_the_model(unet):
    accelerate.cpu_offload_with_hook(unet, execution_device=CPU)


def offload_in_sequence(unet):
    accelerate.cpu_offload(unet, execution_device=CPU)


HOOKS = pytest.mark.parametrize(
    "enable",
    [offload_by_blocks, offload_leaves, cast_layers, offload_the_model, offload_in_sequence],
)


def registries(unet):
    return {
        name: (part.forward, dict(part._diffusers_hook.hooks))
        for name, part in unet.named_modules()
        if hasattr(part, "_diffusers_hook")
    }


@HOOKS
def test_a_copy_and_the_model_run_by_turns(enable):
    unet = make_unet()
    enable(unet)
    plain = run(unet)
    with ap.attach(unet, prompt(), **GUIDED):
        expected = run(unet)
    before, storage = registries(unet), storage_of(unet)
    twin = ap.patch_model(unet, prompt(), **GUIDED)
    assert {id(p) for p in twin.parameters()} == {id(p) for p in unet.parameters()}
    assert registries(unet) == before
    assert storage_of(unet) == storage
    for _ in range(2):
        assert torch.equal(run(twin), expected)
        assert torch.equal(run(unet), plain)
    ap.detach(twin)
    assert torch.equal(run(twin), plain)
    assert is_original(unet)
    assert not torch.equal(plain, expected)


@HOOKS
def test_hooks_may_come_after_the_patches(enable):
    unet, other = make_unet(), make_unet()
    enable(other)
    with ap.attach(other, prompt(), **GUIDED):
        expected = run(other)
    handle = ap.attach(unet, prompt(), **GUIDED)
    enable(unet)
    assert torch.equal(run(unet), expected)
    assert torch.equal(run(share_weights(unet)), expected)
    handle.detach()
    assert torch.equal(run(unet), run(other))


def test_hooks_of_a_copy_know_the_modules_of_the_copy():
    unet = make_unet()
    offload_leaves(unet)
    twin = share_weights(unet)
    own, others = set(twin.modules()), set(unet.modules())
    seen = 0
    for part in own:
        registry = part.__dict__.get("_diffusers_hook")
        if registry is None:
            continue
        assert registry._module_ref is part
        assert part.forward.args == (part,)
        for hook in registry.hooks.values():
            assert hook.fn_ref in registry._fn_refs
            assert hook.fn_ref.forward.__self__ is part
            assert set(hook.group.modules) <= own
            assert hook.group.offload_leader in own
            seen += len(hook.group.modules)
    assert seen > 100
    assert not own & others


def test_each_weight_is_cast_for_the_module_that_runs():
    unet = make_unet()
    cast_layers(unet)
    twin = share_weights(unet)
    weight = twin.mid_block.attentions[0].transformer_blocks[0].attn2.to_q.weight
    assert weight.dtype is torch.bfloat16
    assert run(twin).dtype is torch.float32
    assert weight.dtype is torch.bfloat16
    twin.mid_block.resnets[0].conv1._diffusers_hook._fn_refs.clear()  # of the copy alone
    assert unet.mid_block.resnets[0].conv1._diffusers_hook._fn_refs


class Counting(ModelHook):
    """Counts calls, and remembers the module."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def new_forward(self, module, *args, **kwargs):
        self.calls += 1
        self.module = module
        return self.fn_ref.original_forward(*args, **kwargs)


def test_a_hook_in_the_registry_keeps_a_state_of_its_own_and_can_be_removed():
    unet = make_unet()
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    HookRegistry.check_if_exists_or_initialize(block).register_hook(Counting(), "first")
    HookRegistry.check_if_exists_or_initialize(block).register_hook(Counting(), "second")
    plain = run(unet)
    twin = ap.patch_model(unet, prompt(), **GUIDED)
    with ap.attach(unet, prompt(), **GUIDED):
        expected = run(unet)
    for _ in range(3):
        assert torch.equal(run(twin), expected)
    copied = twin.mid_block.attentions[0].transformer_blocks[0]
    for name in ("first", "second"):
        assert block._diffusers_hook.get_hook(name).calls == 2
        hook = copied._diffusers_hook.get_hook(name)
        assert hook.calls == 4  # one of them before the copy was made
        assert hook.module is copied
    copied._diffusers_hook.remove_hook("first")
    copied._diffusers_hook.remove_hook("second")
    assert torch.equal(run(twin), expected)
    assert hook.calls == 4
    assert torch.equal(run(unet), plain)


def wrapped_by_closure(part, calls):
    forward = part.forward

    def counted(*args, **kwargs):
        calls.append(part)
        return forward(*args, **kwargs)

    part.forward = counted


def wrapped_by_partial(part, calls):
    forward = part.forward

    def counted(module, *args, **kwargs):
        calls.append(module)
        return forward(*args, **kwargs)

    part.forward = functools.update_wrapper(functools.partial(counted, part), forward)


def wrapped_by_method(part, calls):
    forward = part.forward

    def counted(self, *args, **kwargs):
        calls.append(self)
        return forward(*args, **kwargs)

    part.forward = counted.__get__(part)


@pytest.mark.parametrize("wrap", [wrapped_by_closure, wrapped_by_partial, wrapped_by_method])
@pytest.mark.parametrize("place", ["mid_block", "up_blocks.1"])
def test_a_replaced_forward_runs_the_copy(wrap, place):
    unet, calls = make_unet(), []
    with ap.attach(unet, prompt(), **GUIDED):
        expected = run(unet)
    wrap(unet.get_submodule(place), calls)
    twin = ap.patch_model(unet, prompt(), **GUIDED)
    assert torch.equal(run(twin), expected)
    run(unet)
    # The list is the user's: one for both.
    assert calls == [twin.get_submodule(place), unet.get_submodule(place)]


class Tagged(torch.Tensor):
    """A subclass as quantised weights are."""


class Scaled(nn.Module):
    """Tensors where quantised layers have them: a subclass, a state, an attribute, tied."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3).as_subclass(Tagged), requires_grad=False)
        self.tied = self.weight
        self.state = SimpleNamespace(scale=torch.ones(2), codes=[torch.ones(1)])
        self.scales = {"style": 1.0}
        self.offset = torch.ones(1)
        self.lock = threading.Lock()
        self.library = torch
        self.inner = nn.ModuleList()
        self.neighbour = [nn.Linear(1, 1)]
        self.parent = None


def test_tensors_are_the_very_same_and_all_else_is_not():
    module = Scaled()
    module.inner.append(Scaled())
    module.inner[0].parent = [module]  # a way back
    twin = share_weights(module)
    for ours, theirs in ((twin, module), (twin.inner[0], module.inner[0])):
        assert ours is not theirs
        assert type(ours.weight) is type(theirs.weight)
        assert ours.weight is ours.tied is theirs.weight
        assert ours.state is not theirs.state
        assert ours.state.scale is theirs.state.scale
        assert ours.state.codes[0] is theirs.state.codes[0]
        assert ours.scales is not theirs.scales
        assert ours.offset is theirs.offset
        assert ours.lock is theirs.lock
        assert ours.library is torch
        assert ours.neighbour[0] is theirs.neighbour[0]  # no module of the tree
    assert twin.inner[0].parent[0] is twin


def test_long_chains_of_hooks_are_copied():
    """As offloading ahead of time links them: each group knows the next one's modules."""
    module = nn.Sequential(*[nn.Linear(1, 1) for _ in range(1500)])
    for part, following in itertools.pairwise(module):
        part.hook = SimpleNamespace(following=following)
    twin = share_weights(module)
    assert all(part.hook.following is twin[i + 1] for i, part in enumerate(twin[:-1]))


def test_a_pipeline_that_a_hook_knows_is_the_copied_one():
    from test_diffusers_pipelines import make_pipeline

    pipeline = make_pipeline()
    seen = []
    helper = SimpleNamespace(pipeline=pipeline, seen=seen)
    forward = pipeline.unet.forward

    def remembered(*args, **kwargs):
        helper.pipeline.latest = helper.pipeline.unet
        return forward(*args, **kwargs)

    pipeline.unet.forward = remembered
    patched = ap.patch_model(pipeline, prompt(), **GUIDED)
    run(patched.unet)
    assert patched.latest is patched.unet
    assert not hasattr(pipeline, "latest")
