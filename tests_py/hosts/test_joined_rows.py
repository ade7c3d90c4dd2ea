# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Rows that wrappers of the model's function cut out of the host's batch."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnpatch.engine import Crop
from attnpatch.hosts.comfyui.host_batch import HostBatch
from attnpatch.hosts.comfyui.joined_rows import ApplyModelWrapper, joined_rows
from attnpatch.patches import Area

CANVAS = (9, 14)


def make_batch(kinds=(1, 0), each=2, canvas=CANVAS, same_text=False, areas=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(each, 4, *canvas, generator=generator).repeat(len(kinds), 1, 1, 1)
    text = torch.randn(len(kinds), 5, 8, generator=generator).repeat_interleave(each, 0)
    if same_text:
        text[:] = text[0]
    return HostBatch(latents, kinds, {"c_crossattn": text}, canvas, areas or (None,) * len(kinds))


def cut(batch, row, top, left, size=(4, 6)):
    wrapped = batch.input[row].roll((-top, -left), (-2, -1))
    return wrapped[:, : size[0], : size[1]]


@given(st.data(), st.booleans())
def test_rows_of_any_order(data, same_text):
    """Tiles of any places, rows and kinds in any order, over the border as well."""
    kinds = data.draw(st.sampled_from([(1, 0), (0, 1), (1, 0, 0), (0,)]))
    batch = make_batch(kinds, data.draw(st.integers(1, 3)), same_text=same_text)
    corner = st.sampled_from([(0, 0), (2, 3), (7, 11)])
    if same_text:  # then nothing but their order tells cond from uncond: tile by tile
        tiles = data.draw(st.lists(corner, min_size=1, max_size=3, unique=True))
        wanted = [(row, *place) for place in tiles for row in range(len(batch.input))]
    else:
        row = st.integers(0, len(batch.input) - 1)
        wanted = data.draw(st.lists(st.tuples(row, corner), min_size=1, max_size=8))
        wanted = [(row, *place) for row, place in wanted]
    x = torch.stack([cut(batch, *place) for place in wanted])
    text = torch.stack([batch.conditioning["c_crossattn"][row] for row, _, _ in wanted])
    rows, outer, each = joined_rows(batch, x, {"c_crossattn": text})
    assert each == batch.each
    assert rows.roles == tuple(kinds[row // each] for row, _, _ in wanted)
    assert rows.samples == tuple(row % each for row, _, _ in wanted)
    assert rows.crops == tuple(Crop(top, left, CANVAS) for _, top, left in wanted)
    assert [row % each for row in outer] == list(rows.samples)
    latents = [(row % each, top, left) for row, top, left in wanted]
    for i, first in enumerate(latents):
        for j, second in enumerate(latents):
            assert (rows.slots[i] == rows.slots[j]) == (first == second)


def test_the_batch_itself_needs_no_words():
    batch = make_batch()
    assert joined_rows(batch, batch.input, batch.conditioning) is None
    assert joined_rows(batch, batch.input.clone(), batch.conditioning) is None
    changed = batch.input + 1  # a wrapper's own noise leaves the order
    assert joined_rows(batch, changed, batch.conditioning) is None


def test_rows_in_another_order():
    batch = make_batch()
    order = [2, 3, 0, 1]
    given_ = {"c_crossattn": batch.conditioning["c_crossattn"][order]}
    rows = joined_rows(batch, batch.input[order], given_).rows
    assert rows.roles == (0, 0, 1, 1) and rows.slots == rows.samples == (0, 1, 0, 1)


def test_one_chunk_at_a_time():
    batch = make_batch()
    for chunk, kind in enumerate(batch.roles):
        part = slice(2 * chunk, 2 * chunk + 2)
        given_ = {"c_crossattn": batch.conditioning["c_crossattn"][part]}
        assert joined_rows(batch, batch.input[part], given_).rows.roles == (kind, kind)


def test_areas_of_conditionings():
    areas = (Area(0, 2, 5, 6), Area(4, 8, 5, 6))
    batch = make_batch(each=1, canvas=(5, 6), areas=areas)
    batch = HostBatch(batch.input, batch.roles, batch.conditioning, CANVAS, areas)
    rows = joined_rows(batch, batch.input, batch.conditioning).rows
    assert rows.crops == (Crop(0, 2, CANVAS), Crop(4, 8, CANVAS)) and rows.slots == (0, 1)
    tile = batch.input[1:, :, 1:4, 2:5]
    rows = joined_rows(batch, tile, {"c_crossattn": batch.conditioning["c_crossattn"][1:]}).rows
    assert rows.crops == (Crop(5, 10, CANVAS),)


def test_areas_in_a_window():
    """A window over the batch shows two of its pictures; one over rows goes on at the top."""
    areas = (Area(0, 2, 5, 6), Area(7, 8, 5, 6))
    batch = replace(make_batch(canvas=(5, 6), areas=areas), canvas=CANVAS, samples=(4, 1))
    rows = joined_rows(batch, batch.input, batch.conditioning).rows
    assert rows.samples == (4, 1, 4, 1)
    assert rows.crops == (*2 * [Crop(0, 2, CANVAS)], *2 * [Crop(7, 8, CANVAS)])
    tile = {"c_crossattn": batch.conditioning["c_crossattn"][3:]}
    rows = joined_rows(batch, batch.input[3:, :, 3:5, 2:5], tile).rows
    assert (rows.samples, rows.crops) == ((1,), (Crop(1, 10, CANVAS),))


def test_rows_from_nowhere():
    batch = make_batch()
    for x in (torch.ones(3, 4, *CANVAS), torch.ones(4, 4, 20, 20), torch.ones(4, 3, 4, 4)):
        with pytest.raises(ValueError, match="cond_or_uncond: expected rows that are cut out"):
            joined_rows(batch, x, batch.conditioning)
        assert joined_rows(batch, x, batch.conditioning, strict=False) is None


@pytest.mark.parametrize("placed", [False, True])
def test_our_wrapper_is_the_nearest_to_the_network(placed):
    """A cache outside of it answers for the network, and counts the host's rows."""
    seen = []
    around = {"attnpatch": ["ours"], "cache": ["theirs"]}
    options = {"wrappers": {"diffusion_model": around, "apply_model": {}}, "sigmas": 1}

    def execute(x, *args, transformer_options=None):
        seen.append(args[-1] if args else transformer_options)

    wrapper = ApplyModelWrapper(strict=False, told=None)
    if placed:
        wrapper(execute, torch.zeros(1), None, None, None, None, options)
    else:
        wrapper(execute, torch.zeros(1), transformer_options=options)
    assert list(seen[0]["wrappers"]["diffusion_model"].items()) == [
        ("cache", ["theirs"]),
        ("attnpatch", ["ours"]),
    ]
    assert seen[0]["sigmas"] == 1
    assert list(around) == ["attnpatch", "cache"]
