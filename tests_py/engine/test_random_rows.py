# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of any roles, samples, parts and times in one call: each is as it would be alone."""

import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnpatch.engine import Call, Crop, PatchStack, Site, Weight
from attnpatch.patches import (
    AttentionRecord,
    HyperTile,
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    SmoothedEnergyGuidance,
    TokenMerging,
)
from flat_attention import attend_flat

HEADS = 2
LATENT, CANVAS = (6, 5), (12, 10)
PARTS = [None, Crop(0, 0, CANVAS), Crop(3, 2, CANVAS), Crop(8, 7, CANVAS)]  # the last one wraps


@st.composite
def layouts(draw):
    """Kind, picture, part and progress of each row."""
    row = st.tuples(
        st.integers(0, 2), st.integers(0, 2), st.sampled_from(PARTS), st.sampled_from([0.1, 0.6])
    )
    return draw(st.lists(row, min_size=1, max_size=6))


def make_call(rows, **more):
    roles, samples, crops, progress = zip(*rows, strict=True)
    return Call(
        latent=LATENT,
        batch=len(rows),
        chunks=roles,
        samples=samples,
        slots=tuple(range(len(rows))),
        crops=crops,
        progress=progress,
        **more,
    )


def states(layer, grid, rows, text=7):
    generator = torch.Generator().manual_seed(rows)
    counts = (grid[0] * grid[1], text, text)
    return [torch.randn(rows, n, layer.channels, generator=generator) for n in counts]


STACKS = {
    "pictures": lambda prompt, mask: [prompt(pictures=3, negatives=3)],
    "a mask for each picture": lambda prompt, mask: [prompt(mask=mask, end=0.5)],
    "weights and a curve": lambda prompt, mask: [
        prompt(Weight(samples=(0.5, 0.0, 2.0), curve=[(0, 1), (1, 0.2)]), mask=mask[0]),
        prompt(0.7, seed=4, pictures=3, negatives=0, start=0.3),
    ],
    "folded": lambda prompt, mask: [
        prompt(Weight(samples=(0.5, 0.1, 2.0), curve=[(0, 1), (1, 0)]), scaling="K+V"),
        prompt(0.4, seed=5, shared_softmax=True, mask=mask, start=0.5),
    ],
}


@pytest.mark.parametrize("name", STACKS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=layouts(), layer=st.sampled_from([0, 2, 4]))
def test_image_prompts(table, prompt, name, rows, layer):
    mask = torch.rand(3, 24, 20, generator=torch.Generator().manual_seed(3))
    run = PatchStack(STACKS[name](prompt, mask)).bind(table)
    together = Site.over_text(table[layer], make_call(rows))
    q, k, v = states(table[layer], together.grid, len(rows))
    found = run.attend(together, q, k, v, heads=HEADS)
    for i, row in enumerate(rows):
        one = Site.over_text(table[layer], make_call([row]))
        alone = run.attend(one, *(x[i : i + 1] for x in (q, k, v)), heads=HEADS)
        torch.testing.assert_close(found[i : i + 1], alone, rtol=0, atol=1e-5)


def plain(q, k, v):
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def self_attend(run, call, layer, x):
    site = Site.over_image(layer, call)
    acting = run.at(site)
    if acting is None:
        return plain(x, x, x)
    k, v = acting.reduce(x, x)
    return attend_flat(acting, x, k, v, HEADS, plain)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=layouts(), data=st.data())
def test_degraded_rows(table, rows, data):
    stack = [
        PerturbedAttentionGuidance(1.0),
        SmoothedEnergyGuidance(1.0, blur_sigma=1.0),
        SelfAttentionGuidance(1.0),
    ]
    run, layer = PatchStack(stack).bind(table), table.find("middle", 0, 0)
    places = data.draw(st.lists(st.integers(-1, 2), min_size=len(rows), max_size=len(rows)))
    call = make_call(rows, degraded=tuple(places))
    x = states(layer, Site.over_text(layer, call).grid, len(rows))[0]
    found = self_attend(run, call, layer, x)
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        one = self_attend(run, make_call([row], degraded=(place,)), layer, x[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], one, rtol=0, atol=1e-5)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=layouts())
def test_recorded_rows(table, rows):
    run = PatchStack([SelfAttentionGuidance(1.0, end=0.5)]).bind(table)
    layer = table.find("middle", 0, 0)
    record = AttentionRecord()
    x = states(layer, (3, 3), len(rows))[0]
    self_attend(run, make_call(rows, record=record), layer, x)
    expected = []
    for i, row in enumerate(rows):
        alone = AttentionRecord()
        self_attend(run, make_call([row], record=alone), layer, x[i : i + 1])
        assert bool(alone) == (row[0] == 1 and row[3] <= 0.5)
        expected += [entry.column_mean for entry in alone.entries]
    means = [entry.column_mean for entry in record.entries]
    assert bool(means) == bool(expected)
    if means:
        torch.testing.assert_close(torch.cat(means), torch.cat(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "patch", [TokenMerging(), HyperTile(tile_size=4)], ids=lambda p: p.type_name
)
def test_rows_at_different_times_leave_tokens_alone_with_one_warning(table, patch, caplog):
    """They would have different numbers of tokens."""
    rows = [(1, 0, None, 0.1), (0, 0, None, 0.6)]
    run = PatchStack([patch]).bind(table)
    layer = table[0]
    x = states(layer, Site.over_text(layer, make_call(rows)).grid, 2)[0]
    for _ in range(2):
        found = self_attend(run, make_call(rows), layer, x)
    torch.testing.assert_close(found, plain(x, x, x), rtol=0, atol=1e-6)
    assert [r.getMessage() for r in caplog.records if "different times" in r.getMessage()][1:] == []
    assert "rows of one call are at different times" in caplog.text


def test_threads_with_layouts_of_their_own(table, prompt):
    """One bound stack, several calls at the same time."""
    mask = torch.rand(3, 24, 20, generator=torch.Generator().manual_seed(3))
    run = PatchStack(STACKS["a mask for each picture"](prompt, mask)).bind(table)
    layer = table[0]
    calls = [
        make_call([(kind, picture, PARTS[picture], 0.1)] * 2 + [(1 - kind, 0, None, time)])
        for kind in (0, 1)
        for picture in (0, 1, 2)
        for time in (0.1, 0.6)
    ]
    inputs = states(layer, Site.over_text(layer, calls[0]).grid, 3)
    expected = [run.attend(Site.over_text(layer, call), *inputs, heads=HEADS) for call in calls]
    wrong = []

    def work(i):
        for _ in range(20):
            out = run.attend(Site.over_text(layer, calls[i]), *inputs, heads=HEADS)
            if not torch.equal(out, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
