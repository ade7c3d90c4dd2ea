# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Gradients of image prompts, against the formulas in float64; what is read when, and saved."""

import pickle

import pytest
import torch

from attnpatch.adapters import load_image_adapter
from attnpatch.engine import PatchStack, Weight
from attnpatch.patches import ImagePrompt
from attnpatch.patches.image_prompt.keys_values import SCALINGS
from flat_attention import branches_at

WEIGHT = 0.7


def loss_of(out, seed=3):
    """A number that depends on every value of `out`, and not in the same way."""
    generator = torch.Generator().manual_seed(seed)
    return (out * torch.randn(out.shape, generator=generator).to(out)).sum()


def attend(table, prompts, here, qkv):
    return PatchStack(prompts).bind(table).attend(here, *qkv(here), heads=2)


def assert_same_gradients(found, expected, leaves):
    ours = torch.autograd.grad(loss_of(found), leaves, allow_unused=True)
    theirs = torch.autograd.grad(loss_of(expected), leaves, allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def joint_attention(q, k, v, keys, values, share):
    """One softmax over text and image for (tokens, channels), in float64."""
    heads = [t.double().unflatten(-1, (2, -1)).transpose(0, 1) for t in (q, k, v, keys, values)]
    q, k, v, keys, values = heads
    e = (q @ torch.cat([k, keys], 1).mT / q.shape[-1] ** 0.5).exp()
    e = torch.cat([e[..., : k.shape[1]], e[..., k.shape[1] :] * share.double()[:, None]], -1)
    out = e @ torch.cat([v, values], 1) / e.sum(-1, keepdim=True)
    return out.transpose(0, 1).flatten(1)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("shared_softmax", [False, True])
def test_equal_those_of_the_formula(
    scaling, shared_softmax, adapter, tokens, table, site, qkv, formulas
):
    here = site(3, chunks=(1, 0), batch=4)
    grid = here.grid
    weights = adapter.weights[3]
    leaves = [tokens(2), tokens(1, seed=50), *weights, torch.rand(2, *grid)]
    for leaf in leaves:
        leaf.requires_grad_()
    cond, uncond, to_k, to_v, mask = leaves
    strengths = [0.7, 1.3]
    prompt = ImagePrompt(
        adapter,
        (cond, uncond),
        Weight(samples=strengths),
        mask=mask,
        scaling=scaling,
        shared_softmax=shared_softmax,
    )
    q, k, v = qkv(here)
    rows = []
    for row, (token, picture) in enumerate(
        [(uncond[0], 0), (uncond[0], 1), (cond[0], 0), (cond[1], 1)]
    ):
        strength = torch.tensor(strengths[picture], dtype=torch.float64)
        share = mask[picture].flatten()
        keys, values, factor = formulas.scaled(token @ to_k.T, token @ to_v.T, strength, scaling)
        if shared_softmax:
            if scaling == "V only":
                values = values * strength
            rows.append(joint_attention(q[row], k[row], v[row], keys, values, share))
        else:
            term = formulas.attention(q[row], keys, values) * factor * share.double()[:, None]
            rows.append(formulas.attention(q[row], k[row], v[row]) + term)
    found = attend(table, [prompt], here, qkv)
    torch.testing.assert_close(found.double(), torch.stack(rows), rtol=1e-4, atol=1e-4)
    assert_same_gradients(found, torch.stack(rows), leaves)


@pytest.mark.parametrize("shared_softmax", [False, True])
def test_a_mask_of_zeros_can_be_learned(shared_softmax, prompt, table, site, qkv):
    """There the gradient is the derivative from above, as differences show."""
    here = site(3)
    mask = torch.zeros(here.grid, requires_grad=True)

    def loss(mask):
        return loss_of(
            attend(table, [prompt(WEIGHT, mask=mask, shared_softmax=shared_softmax)], here, qkv)
        )

    (found,) = torch.autograd.grad(loss(mask), mask)
    step = 1e-3
    with torch.no_grad():
        difference = (loss(mask + step) - loss(torch.zeros_like(mask))) / step
    torch.testing.assert_close(found.sum(), difference, rtol=0.02, atol=1e-3)


def test_one_tensor_in_several_prompts_gets_the_sum(adapter, tokens, table, site, qkv):
    here = site(3)
    shared, own = tokens(1).requires_grad_(), tokens(1, seed=7)
    prompts = [ImagePrompt(adapter, (shared, None), weight) for weight in (0.3, 0.9)]
    whole = attend(table, [*prompts, ImagePrompt(adapter, (own, None))], here, qkv)
    (found,) = torch.autograd.grad(loss_of(whole), shared)
    parts = [loss_of(attend(table, [prompt], here, qkv)) for prompt in prompts]
    expected = sum(torch.autograd.grad(part, shared)[0] for part in parts)
    torch.testing.assert_close(found, expected)


def test_tokens_of_different_numbers_and_one_of_them_trained(adapter, tokens, table, site, qkv):
    here = site(3, chunks=(1, 0), batch=2)
    cond, uncond = tokens(1, count=5), tokens(1, count=3, seed=2)
    for leaf in (cond, uncond):
        leaf.requires_grad_()
        prompt = ImagePrompt(adapter, (cond, uncond))
        assert [part.requires_grad for part in prompt.keys_values.parts] == [
            cond.requires_grad,
            uncond.requires_grad,
        ]
        (gradient,) = torch.autograd.grad(loss_of(attend(table, [prompt], here, qkv)), leaf)
        assert gradient.abs().max() > 0
        leaf.requires_grad_(False)


@pytest.mark.parametrize("same", [True, False])
def test_ready_keys_and_values(same, adapter, tokens, table, site, qkv):
    here = site(3, chunks=(1, 0), batch=2)
    cond = adapter.project_sites(tokens(1))
    uncond = adapter.project_sites(tokens(1, count=4 if same else 6, seed=9))
    leaves = [tensor.requires_grad_() for pairs in (cond, uncond) for tensor in pairs[3]]
    prompt = ImagePrompt.from_keys_values(cond, uncond, WEIGHT)
    gradients = torch.autograd.grad(loss_of(attend(table, [prompt], here, qkv)), leaves)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    with torch.no_grad():
        for leaf in leaves:
            leaf.mul_(0.5)
    again = ImagePrompt.from_keys_values(
        *[[(k.detach(), v.detach()) for k, v in pairs] for pairs in (cond, uncond)], WEIGHT
    )
    assert torch.equal(attend(table, [prompt], here, qkv), attend(table, [again], here, qkv))


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("gradients", [True, False])
def test_a_step_is_seen_by_the_next_call(scaling, gradients, adapter, tokens, table, site, qkv):
    """Whether or not gradients are enabled, and by writes that torch does not count as well."""
    here = site(3)
    leaves = [tokens(1).requires_grad_(), adapter.weights[3][0].requires_grad_()]
    mask = torch.rand(here.grid).requires_grad_()
    prompt = ImagePrompt(adapter, (leaves[0], None), WEIGHT, mask=mask, scaling=scaling)
    run = PatchStack([prompt]).bind(table)
    with torch.set_grad_enabled(gradients):
        before = run.attend(here, *qkv(here), heads=2)
        for leaf in (*leaves, mask):
            leaf.data.mul_(0.5)
            after = run.attend(here, *qkv(here), heads=2)
            assert after.requires_grad == gradients
            assert not torch.equal(after, before)
            before = after
    values, tensors = prompt.state()
    plain = ImagePrompt.from_state(values, tensors)
    assert torch.equal(attend(table, [plain], here, qkv), after)


def test_without_gradients_nothing_is_made_twice(prompt, table, site):
    here = site(3)
    run = PatchStack([prompt(mask=torch.ones(4, 4), scaling="K+V")]).bind(table)
    first, second = (branches_at(run, here, torch.float32) for _ in range(2))
    assert first is second and not first.requires_grad


def test_a_joint_mask_that_a_step_took_below_zero_is_an_error(prompt, table, site, qkv):
    here = site(3)
    mask = torch.zeros(here.grid, requires_grad=True)
    run = PatchStack([prompt(mask=mask, shared_softmax=True)]).bind(table)
    mask.data.sub_(0.1)
    with pytest.raises(ValueError, match=r"mask: expected values of at least 0 .*, got -0.1"):
        run.attend(here, *qkv(here), heads=2)


def trained_prompt(adapter, tokens, **options):
    mask = torch.rand(4, 4).requires_grad_()
    embeds = tokens(2).requires_grad_(), tokens(1, seed=4)
    return ImagePrompt(adapter, embeds, WEIGHT, mask=mask, **options)


def test_files_and_pickles_hold_values(adapter, tokens, tmp_path):
    prompt = trained_prompt(adapter, tokens)
    PatchStack([prompt, prompt.replace(weight=0.1), trained_prompt(adapter, tokens)]).save(
        tmp_path / "stack"
    )
    for copy in (PatchStack.load(tmp_path / "stack")[0], pickle.loads(pickle.dumps(prompt))):
        assert prompt.requires_grad and not copy.requires_grad
        assert not any(tensor.requires_grad for tensor in copy.state()[1].values())
        assert copy == prompt and hash(copy) == hash(prompt) and copy.digest == prompt.digest
    prompt.trained_mask.data.mul_(0.5)
    assert copy != prompt and copy.digest != prompt.digest


def test_other_options_keep_the_gradient(adapter, tokens):
    prompt = trained_prompt(adapter, tokens)
    other = prompt.replace(weight=0.1, mask_resize="nearest")
    assert other.trained_mask is prompt.trained_mask
    assert other.keys_values is prompt.keys_values
    assert prompt.replace(mask=None).trained_mask is None


def test_the_prompt_says_what_the_mask_is_now(adapter, tokens):
    prompt = trained_prompt(adapter, tokens)
    assert prompt.mask.shape == (1, 4, 4) and not prompt.mask.requires_grad
    prompt.trained_mask.data.fill_(0.25)
    assert bool((prompt.mask == 0.25).all())


@pytest.mark.parametrize("weight", [0.5, [0.5, 1.0]], ids=["number", "pictures"])
def test_a_weight_that_requires_a_gradient_is_an_error(weight, prompt):
    weight = torch.tensor(weight, requires_grad=True)
    with pytest.raises(ValueError, match="weight: expected a number, got a tensor whose gradient"):
        prompt(weight)


def test_a_weight_is_learned_by_way_of_a_mask(prompt, table, site, qkv):
    here = site(3)
    weight = torch.tensor(0.4, requires_grad=True)
    learned = attend(table, [prompt(mask=weight * torch.ones(1, 1))], here, qkv)
    torch.testing.assert_close(learned, attend(table, [prompt(0.4)], here, qkv))
    (found,) = torch.autograd.grad(loss_of(learned), weight)
    expected = loss_of(attend(table, [prompt(1.0)], here, qkv)) - loss_of(
        attend(table, [prompt(0.0)], here, qkv)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_inference_tensors_beside_parameters(adapter, tokens, table, site, qkv):
    with torch.inference_mode():
        cond = tokens(1) * 1.0
        adapter.weights[3][0].requires_grad_()
        prompt = ImagePrompt(adapter, (cond, None))
    out = attend(table, [prompt], site(3), qkv)
    assert torch.autograd.grad(loss_of(out), adapter.weights[3][0])[0].abs().max() > 0


@pytest.fixture
def state(table):
    """A linear adapter's tensors, all of which are parameters."""
    generator = torch.Generator().manual_seed(0)

    def parameter(*shape):
        return torch.nn.Parameter(torch.randn(*shape, generator=generator))

    net = {"proj.weight": parameter(64, 8), "proj.bias": parameter(64)}
    net |= {"norm.weight": parameter(16), "norm.bias": parameter(16)}
    sites = {
        f"{2 * layer.index + 1}.to_{letter}_ip.weight": parameter(layer.channels, 16)
        for layer in table
        for letter in "kv"
    }
    return {"image_proj": net, "ip_adapter": sites}


def test_every_parameter_of_an_adapter_gets_one(state, table, site, qkv):
    adapter = load_image_adapter(state)
    image = torch.randn(1, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    prompt = ImagePrompt(adapter, adapter.get_image_embeds(image))
    loss = sum(
        loss_of(attend(table, [prompt], site(layer.index, batch=2, chunks=(1, 0)), qkv))
        for layer in table
    )
    leaves = [image, *(leaf for group in state.values() for leaf in group.values())]
    for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
        assert gradient.shape == leaf.shape and gradient.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_one_layer_is_projected_as_all_are(dtype, state):
    with torch.no_grad():
        adapter = load_image_adapter(state, dtype=dtype)
    tokens = torch.randn(2, 4, 16)
    for index, pair in enumerate(adapter.project_sites(tokens)):
        assert all(map(torch.equal, pair, adapter.project_site(index, tokens)))


def test_an_adapter_in_training_compares_by_its_values(state):
    adapter, twin = load_image_adapter(state), load_image_adapter(state)
    copy = pickle.loads(pickle.dumps(adapter))
    assert adapter == twin == copy
    embeds = adapter.get_image_embeds(torch.ones(1, 8))
    assert not pickle.loads(pickle.dumps(embeds)).cond.requires_grad
    state["ip_adapter"]["1.to_k_ip.weight"].data.add_(1)
    assert adapter == twin and adapter != copy
    assert pickle.loads(pickle.dumps(adapter)) != copy
    assert not any(weight.requires_grad for weight in copy.state_dict()["ip_adapter"].values())
