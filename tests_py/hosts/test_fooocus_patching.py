# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Fooocus' patch_model on a host that calls patches as Fooocus does."""

from __future__ import annotations

import threading

import protocol_host as host
import pytest
import torch
from fooocus_oracle import (
    STRUCTURES,
    WIDTH,
    joint_attention,
    make_task,
    record_slots,
    relative,
    strong,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch.hosts.fooocus import ip_adapter

EARLY, MIDDLE, LATE = 9.0, 5.0, 0.5  # sigmas; progress 1 - 100 sigma / 999


def fill_with_oracle(model, structure, tasks):
    """Return a clone whose slots hold the formula itself."""
    clone = model.clone()
    for number, (key, _, _) in enumerate(structure.sites()):

        def oracle(q, k, v, options, number=number):
            progress = float(clone.model.diffusion_model.current_step[0])
            chunks, heads = options["cond_or_uncond"], options["n_heads"]
            return joint_attention(
                q, k, v, heads, tasks=tasks, number=number, chunks=chunks, progress=progress
            )

        clone.set_model_attn2_replace(oracle, *key)
    return clone


@pytest.mark.parametrize("chunks", [[0], [1], [1, 0], [0, 1], [1, 1, 0, 0]], ids=str)
@pytest.mark.parametrize(
    ("structure", "batch"),
    [(host.SD1, 1), (host.SD1, 2), (host.SD1, 3), (host.SD1, 4), (host.SDXL, 1), (host.SDXL, 2)],
    ids=["sd1-1", "sd1-2", "sd1-3", "sd1-4", "sdxl-1", "sdxl-2"],
)
def test_every_site_attends_as_the_formula(structure, chunks, batch):
    model = host.make_host(structure, WIDTH)
    tasks = [
        make_task(structure, WIDTH, weight=strong(0.6), stop=0.5, seed=1),
        make_task(structure, WIDTH, weight=strong(0.3), stop=0.9, seed=2, tokens=5),
    ]
    patched = ip_adapter.patch_model(model, tasks)
    calls = record_slots(patched)
    x, contexts = host.make_inputs(structure, batch=batch)
    patched.apply(x, EARLY, contexts, chunks)

    assert set(calls) == {key for key, _, _ in structure.sites()}
    for number, (key, multiplier, _) in enumerate(structure.sites()):
        q, k, v, options, out = calls[key]
        assert q.shape[0] == batch * len(chunks) and q.shape[2] == multiplier * WIDTH
        heads = options["n_heads"]
        expected = joint_attention(
            q, k, v, heads, tasks=tasks, number=number, chunks=chunks, progress=1 - EARLY / 9.99
        )
        plain = host.attention(q, k, v, heads)
        assert relative(out, expected) < 1e-5
        assert relative(out, plain) > 1e-2, "the picture has no effect here"


def test_the_formula_holds_for_any_call():
    structure = host.SD1
    model = host.make_host(structure, WIDTH)

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(
        chunks=st.lists(st.sampled_from([0, 1]), min_size=1, max_size=4),
        rows=st.integers(1, 3),
        site=st.integers(0, 15),
        progress=st.floats(0, 1),
        text=st.integers(1, 80),
        tasks=st.lists(
            st.tuples(st.integers(1, 17), st.floats(-0.5, 1.5), st.floats(-2, 2)),
            min_size=1,
            max_size=3,
        ),
    )
    def check(chunks, rows, site, progress, text, tasks):
        made = [
            make_task(structure, WIDTH, tokens=tokens, stop=stop, weight=strong(weight), seed=i)
            for i, (tokens, stop, weight) in enumerate(tasks)
        ]
        key, multiplier, _ = structure.sites()[site]
        slot = ip_adapter.patch_model(model, made, compat="fooocus").slots().get(key)
        if slot is None:  # no task ever acts
            assert all(stop <= 0 for _, stop, _ in tasks)
            return
        noise = torch.Generator().manual_seed(0)
        batch, channels = rows * len(chunks), multiplier * WIDTH
        q = torch.randn(batch, 9, channels, generator=noise)
        k, v = torch.randn(2, batch, text, channels, generator=noise).unbind()
        step = model.model.diffusion_model.current_step = torch.full((batch,), progress)
        heads = channels // host.HEAD_SIZE
        options = {"n_heads": heads, "cond_or_uncond": chunks, "original_shape": [batch, 4, 3, 3]}
        expected = joint_attention(
            q, k, v, heads, tasks=made, number=site, chunks=chunks, progress=float(step[0])
        )
        assert relative(slot(q, k, v, options), expected) < 1e-5

    check()


@STRUCTURES
def test_a_whole_sampling_run_is_that_of_the_formula(structure):
    model = host.make_host(structure, WIDTH)
    tasks = [
        make_task(structure, WIDTH, weight=strong(0.6), stop=0.5, seed=1),
        make_task(structure, WIDTH, weight=strong(0.3), stop=0.9, seed=2),
    ]
    x, contexts = host.make_inputs(structure)
    patched = ip_adapter.patch_model(model, tasks)
    ours = patched.sample(x, contexts)
    expected = fill_with_oracle(model, structure, tasks).sample(x, contexts)
    assert relative(ours, expected) < 1e-4
    assert relative(ours, model.sample(x, contexts)) > 1e-3


@pytest.mark.parametrize(
    ("stop", "sigma", "acts"),
    [
        (0.5, EARLY, True),
        (0.5, MIDDLE, True),  # progress 0.4995
        (0.4994, MIDDLE, False),
        (0.5, LATE, False),
        (1.0, LATE, True),
        (1.0, 0.0, False),  # progress 1 is not below 1
        (2.0, 0.0, True),
        (0.0, 9.99, False),
        (-1.0, 9.99, False),
        (0.001, 9.99, True),
    ],
)
def test_a_task_acts_while_the_step_is_below_its_stop(stop, sigma, acts):
    model = host.make_host(host.SD1, WIDTH)
    task = make_task(host.SD1, WIDTH, weight=strong(1.0), stop=stop)
    x, contexts = host.make_inputs(host.SD1)
    patched = ip_adapter.patch_model(model, [task])
    same = torch.equal(
        patched.apply(x, sigma, contexts, [1, 0]), model.apply(x, sigma, contexts, [1, 0])
    )
    assert same != acts


def test_each_row_of_a_batch_may_have_its_own_picture():
    structure = host.SD1
    model = host.make_host(structure, WIDTH)
    task = make_task(structure, WIDTH, weight=strong(1.0), pictures=3)
    x, contexts = host.make_inputs(structure, batch=3)
    together = ip_adapter.patch_model(model, [task]).apply(x, EARLY, contexts, [1, 0])
    (conds, unconds), stop, weight = task
    for row in range(3):
        alone = (([t[row : row + 1] for t in conds], unconds), stop, weight)
        part = {chunk: c[row : row + 1] for chunk, c in contexts.items()}
        patched = ip_adapter.patch_model(model, [alone])
        expected = patched.apply(x[row : row + 1], EARLY, part, [1, 0])
        assert relative(together[[row, 3 + row]], expected) < 1e-4


def test_cond_and_uncond_may_have_different_numbers_of_tokens():
    structure = host.SD1
    model = host.make_host(structure, WIDTH)
    (conds, _), stop, weight = make_task(structure, WIDTH, weight=strong(1.0), tokens=4)
    (_, unconds), _, _ = make_task(structure, WIDTH, tokens=7, seed=3)
    tasks = [((conds, unconds), stop, weight)]
    x, contexts = host.make_inputs(structure)
    both = ip_adapter.patch_model(model, tasks).apply(x, EARLY, contexts, [1, 0])
    oracle = fill_with_oracle(model, structure, tasks)
    alone = torch.cat([oracle.apply(x, EARLY, contexts, [chunk]) for chunk in (1, 0)])
    assert relative(both, alone) < 1e-4


def test_weight_zero_is_no_prompt_at_all():
    model = host.make_host(host.SD1, WIDTH)
    patched = ip_adapter.patch_model(model, [make_task(host.SD1, WIDTH, weight=0.0)])
    x, contexts = host.make_inputs(host.SD1)
    assert torch.equal(patched.sample(x, contexts), model.sample(x, contexts))
    assert not patched.slots()


def test_quirks_bring_back_what_the_host_does():
    structure = host.SD1
    model = host.make_host(structure, WIDTH)
    x, contexts = host.make_inputs(structure)
    zero = make_task(structure, WIDTH, weight=0.0)
    first = make_task(structure, WIDTH, weight=strong(1.0), seed=1)
    second = make_task(structure, WIDTH, weight=strong(1.0), seed=2)

    quirky = ip_adapter.patch_model(model, [zero], compat="fooocus")
    expected = fill_with_oracle(model, structure, [zero]).sample(x, contexts)
    assert relative(quirky.sample(x, contexts), expected) < 1e-4
    assert relative(expected, model.sample(x, contexts)) > 1e-3

    once = ip_adapter.patch_model(model, [first])
    twice = ip_adapter.patch_model(once, [second], compat="fooocus")
    assert torch.equal(twice.sample(x, contexts), once.sample(x, contexts))


def test_no_tasks_give_a_plain_clone():
    model = host.make_host(host.SD1, WIDTH)
    clone = ip_adapter.patch_model(model, [])
    assert clone is not model and not clone.slots()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_keys_and_values_follow_the_query(dtype):
    structure = host.SD1
    task = make_task(structure, WIDTH, weight=strong(1.0))
    patched = ip_adapter.patch_model(host.make_host(structure, WIDTH), [task])
    for number, (key, multiplier, level) in enumerate(structure.sites()):
        side, channels = 16 >> level, multiplier * WIDTH
        noise = torch.Generator().manual_seed(number)
        q = torch.randn(2, side * side, channels, generator=noise).to(dtype)
        k, v = (torch.randn(2, 7, channels, generator=noise).to(dtype) for _ in "kv")
        patched.model.diffusion_model.current_step = torch.zeros(2)
        options = {
            "n_heads": channels // host.HEAD_SIZE,
            "cond_or_uncond": [0, 1],
            "original_shape": [2, 4, 16, 16],
        }
        out = patched.slots()[key](q, k, v, options)
        expected = joint_attention(
            q.double(),
            k.double(),
            v.double(),
            options["n_heads"],
            tasks=[task],
            number=number,
            chunks=[0, 1],
            progress=0,
        )
        assert out.dtype == dtype
        assert relative(out.double(), expected) < 4 * torch.finfo(dtype).eps


def test_the_step_is_read_once_in_a_call(monkeypatch):
    structure = host.SDXL
    model = host.make_host(structure, WIDTH)
    tasks = [make_task(structure, WIDTH, seed=seed) for seed in (1, 2)]
    patched = ip_adapter.patch_model(model, tasks)
    reads = []
    read = torch.Tensor.__float__
    monkeypatch.setattr(torch.Tensor, "__float__", lambda t: reads.append(1) or read(t))
    x, contexts = host.make_inputs(structure)
    for count in (1, 2):
        patched.apply(x, MIDDLE, contexts, [1, 0])
        assert len(reads) == count


def test_without_current_step_the_sigma_tells():
    structure = host.SD1
    task = make_task(structure, WIDTH, stop=0.5, weight=strong(1.0))
    patched = ip_adapter.patch_model(host.make_host(structure, WIDTH), [task])
    slot = patched.slots()["middle", 0, 0]
    q = torch.ones(1, 4, 4 * WIDTH)
    options = {"n_heads": 8, "cond_or_uncond": [0], "original_shape": [1, 4, 16, 16]}
    with pytest.raises(ValueError, match="current_step"):
        slot(q, q, q, options)
    outs = [slot(q, q, q, options | {"sigmas": torch.full((1,), s)}) for s in (EARLY, LATE)]
    assert not torch.allclose(outs[0], outs[1]) and torch.allclose(outs[1], q)


def test_random_state_and_inputs_are_left_alone():
    structure = host.SD1
    model = host.make_host(structure, WIDTH)
    (conds, unconds), stop, weight = make_task(structure, WIDTH)
    kept = [t.clone() for t in (*conds, *unconds)]
    state = torch.get_rng_state()
    patched = ip_adapter.patch_model(model, [((conds, unconds), stop, weight)])
    x, contexts = host.make_inputs(structure)
    expected = patched.sample(x, contexts)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, kept, (*conds, *unconds)))
    for t in (*conds, *unconds):
        t.zero_()
    assert torch.equal(patched.sample(x, contexts), expected), "a patch must own its tensors"


def test_inference_mode_leaves_no_trace():
    """The host makes keys and values, and patches, in inference mode; others use the result."""
    structure = host.SD1
    model = host.make_host(structure, WIDTH)
    with torch.inference_mode():
        task = make_task(structure, WIDTH, weight=strong(1.0))
        patched = ip_adapter.patch_model(model, [task])
    x, contexts = host.make_inputs(structure)
    expected = patched.apply(x, EARLY, contexts, [1, 0])  # in inference mode as well
    slot = patched.slots()["input", 1, 0]
    q = torch.randn(1, 4, WIDTH, requires_grad=True)
    text = torch.randn(1, 7, WIDTH)
    options = {"n_heads": 2, "cond_or_uncond": [0], "original_shape": [1, 4, 2, 2]}
    slot(q, text, text, options).sum().backward()
    assert q.grad.abs().sum() > 0
    again = ip_adapter.patch_model(model, [make_task(structure, WIDTH, weight=strong(1.0))])
    assert torch.equal(again.apply(x, EARLY, contexts, [1, 0]), expected)


def test_two_models_run_at_once():
    structure = host.SD1
    x, contexts = host.make_inputs(structure)
    models = [
        ip_adapter.patch_model(
            host.make_host(structure, WIDTH, seed=seed),
            [make_task(structure, WIDTH, weight=strong(1.0), stop=0.6, seed=seed)],
        )
        for seed in (1, 2)
    ]
    expected = [model.sample(x, contexts, steps=5) for model in models]
    results = {}

    def work(i):
        results[i] = [models[i].sample(x, contexts, steps=5) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(out, expected[i]) for i in (0, 1) for out in results[i])


@pytest.mark.parametrize("size", [(16, 16), (13, 9), (24, 8), (9, 31)], ids=str)
def test_any_latent_size(size):
    structure = host.SD1
    model = host.make_host(structure, WIDTH)
    tasks = [make_task(structure, WIDTH, weight=strong(1.0))]
    x, contexts = host.make_inputs(structure, size=size)
    ours = ip_adapter.patch_model(model, tasks).apply(x, EARLY, contexts, [1, 0])
    expected = fill_with_oracle(model, structure, tasks).apply(x, EARLY, contexts, [1, 0])
    assert relative(ours, expected) < 1e-4


def test_errors_name_what_was_given():
    model = host.make_host(host.SD1, WIDTH)
    (conds, unconds), stop, weight = make_task(host.SD1, WIDTH)
    with pytest.raises(ValueError, match=r"tasks\[1\].*\(\(conds, unconds\), stop, weight\)"):
        ip_adapter.patch_model(model, [((conds, unconds), stop, weight), 3])
    with pytest.raises(ValueError, match=r"tasks\[0\].*unconds.*got 31 tensors"):
        ip_adapter.patch_model(model, [((conds, unconds[1:]), stop, weight)])
    with pytest.raises(ValueError, match=r"the 16 layers of this UNet .*, got one for 70 "):
        ip_adapter.patch_model(model, [make_task(host.SDXL, WIDTH)])
    with pytest.raises(ValueError, match=r"expected 16 channels for .* layer 0 .*, got 32"):
        ip_adapter.patch_model(model, [make_task(host.SD1, 2 * WIDTH)])
    patched = ip_adapter.patch_model(model, [make_task(host.SD1, WIDTH, pictures=2)])
    x, contexts = host.make_inputs(host.SD1, batch=3)
    with pytest.raises(ValueError, match="got 2 for 3 cond rows"):
        patched.apply(x, EARLY, contexts, [0])
