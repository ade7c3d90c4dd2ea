# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Token merging and HyperTile, against plain loops."""

import pytest
import reduction_spec as spec
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch import HyperTile, TokenMerging
from attnpatch.engine import Call, PatchStack, Site, layer_table
from attnpatch.patches.token_reduction.merging import Cells, _split
from flat_attention import attend_flat

SD1 = layer_table("sd1")
CHANNELS = 8
HEADS = 2


def plain(q, k, v):
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def found_at(patch, latent, layer=SD1[0], progress=0.4, table=SD1):
    site = Site.over_image(layer, Call(latent=latent, progress=progress, batch=2))
    return PatchStack([patch]).bind(table).at(site), site


def inputs(tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, tokens, CHANNELS, generator=generator) for _ in range(3)]


def merged_attention(q, k, v, sources, destinations, count):
    """One picture: merge the `count` sources that are most like a destination, attend, part."""
    unit = k / k.norm(dim=-1, keepdim=True)
    likeness = {s: [(float(unit[s] @ unit[d]), d) for d in destinations] for s in sources}
    best = {s: max(pairs, key=lambda pair: pair[0]) for s, pairs in likeness.items()}
    gone = sorted(best, key=lambda s: -best[s][0])[:count]
    groups = {t: [t] for t in range(len(q)) if t not in gone}
    for s in gone:
        groups[best[s][1]].append(s)
    mean = [torch.stack([x[members].mean(0) for members in groups.values()]) for x in (q, k, v)]
    few = [spec.split(x, HEADS) for x in mean]
    weights = (few[0] @ few[1].mT / few[0].shape[-1] ** 0.5).softmax(-1)
    out = torch.zeros_like(q)
    for row, members in zip((weights @ few[2]).transpose(0, 1).flatten(1), groups.values()):  # noqa: B905
        out[members] = row
    return out


@settings(max_examples=25)
@given(
    st.tuples(st.integers(1, 13), st.integers(1, 13)),
    st.integers(1, 100),
    st.integers(2, 5),
    st.booleans(),
    st.integers(0, 99),
)
def test_token_merging(latent, percent, stride, regular, seed):
    patch = TokenMerging(ratio=percent / 100, stride=stride, regular=regular, seed=seed)
    found, _site = found_at(patch, latent)
    tokens = latent[0] * latent[1]
    if found is None:
        assert int(tokens * percent / 100) == 0 or tokens == 1
        return
    plan = found._chain.reducing._plan
    sources, destinations = (x.tolist() for x in _split(plan.cells, torch.device("cpu")))
    assert sorted(sources + destinations) == list(range(tokens))
    q, k, v = inputs(tokens, seed)
    assert found.reduce(k, k) == (k, k)
    out = attend_flat(found, q, k, v, HEADS, plain)
    count = min(int(tokens * (percent / 100)), len(sources))
    assert plan.count == count
    for b in range(2):
        expected = merged_attention(
            *(x[b].double() for x in (q, k, v)), sources, destinations, count
        )
        torch.testing.assert_close(out[b].double(), expected, rtol=1e-4, atol=1e-5)


def test_destinations_are_one_of_each_cell():
    for chosen in (None, 1, 2, 3):
        cells = Cells((7, 9), 2, chosen)
        _, destinations = _split(cells, torch.device("cpu"))
        found = [(int(d) // 9 // 2, int(d) % 9 // 2) for d in destinations]
        assert found == [(y, x) for y in range(3) for x in range(4)]
        if chosen is None:
            assert all(int(d) // 9 % 2 == 0 and int(d) % 9 % 2 == 0 for d in destinations)
    first, second = (_split(Cells((7, 9), 2, c), torch.device("cpu"))[1] for c in (1, 2))
    assert not torch.equal(first, second)


def test_merging_draws_by_seed_timestep_and_layer():
    def chosen(patch, **where):
        return found_at(patch, (8, 8), **where)[0]._chain.reducing._plan.cells.chosen

    patch = TokenMerging()
    one = chosen(patch)
    assert one == chosen(TokenMerging()) == chosen(patch, progress=0.4 + 1e-12)
    others = [
        chosen(patch, progress=0.6),
        chosen(TokenMerging(seed=1)),
        chosen(patch, layer=SD1[1]),
    ]
    assert len({one, *others}) == 4


def test_identical_tokens_merge_without_a_trace():
    # Merged means of equal tokens are those tokens, and every key is there as often as it was.
    found, _site = found_at(TokenMerging(ratio=0.75, regular=True), (8, 8))
    q, k, v = (
        x.view(2, 4, 1, 4, 1, CHANNELS).expand(-1, -1, 2, -1, 2, -1).reshape(2, 64, CHANNELS)
        for x in inputs(16)
    )
    out = attend_flat(found, q, k, v, HEADS, plain)
    torch.testing.assert_close(out, plain(q, k, v), rtol=1e-4, atol=1e-5)


def test_merging_leaves_keys_of_others_alone():
    found, _site = found_at(TokenMerging(), (8, 8))
    q, k, v = inputs(64)
    out = attend_flat(found, q, k[:, :9], v[:, :9], HEADS, plain)
    assert torch.equal(out, plain(q, k[:, :9], v[:, :9]))


def test_large_grids_are_matched_in_parts(monkeypatch):
    found, _site = found_at(TokenMerging(), (12, 12))
    q, k, v = inputs(144)
    whole = attend_flat(found, q, k, v, HEADS, plain)
    monkeypatch.setattr("attnpatch.patches.token_reduction.merging._SCORES", 1)
    torch.testing.assert_close(attend_flat(found, q, k, v, HEADS, plain), whole)


@pytest.mark.parametrize(
    ("options", "latent", "tiles"),
    [
        ({"tile_size": 32, "swap_size": 1}, (16, 16), (4, 4)),
        ({"tile_size": 1, "swap_size": 1}, (16, 16), (4, 4)),  # at least 32
        ({"tile_size": 48, "swap_size": 1}, (17, 5), (2, 1)),  # two of at least 6 rows
        ({"tile_size": 32, "swap_size": 1}, (13, 29), (3, 6)),  # 7 of at least 4 columns, of 5 six
    ],
)
def test_hyper_tile(options, latent, tiles):
    found, _site = found_at(HyperTile(**options), latent)
    tiling = found._chain.reducing._plan.tiling
    assert tiling.tiles == tiles
    q, k, v = inputs(latent[0] * latent[1])
    out = attend_flat(found, q, k, v, HEADS, plain)
    rows, columns = (torch.arange(n) // size for n, size in zip(latent, tiling.tile, strict=True))
    tile = (rows[:, None] * 100 + columns).flatten()
    heads = [x.unflatten(-1, (HEADS, -1)).transpose(1, 2).double() for x in (q, k, v)]
    same = tile[:, None] == tile
    expected = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=same)
    expected = expected.transpose(1, 2).flatten(2)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)


def test_hyper_tile_draws_numbers_of_tiles():
    drawn = set()
    for step in range(40):
        found, _ = found_at(HyperTile(tile_size=32), (16, 16), progress=step / 40)
        drawn.add(found._chain.reducing._plan.tiling.tiles)
    assert drawn == {(y, x) for y in (3, 4) for x in (3, 4)}


def test_depths_count_from_the_first_attention():
    for family, channels in (("sd1", (320, 640, 1280)), ("sdxl", (640, 1280))):
        for depth in range(len(channels)):
            for patch in (TokenMerging(max_depth=depth + 1), HyperTile(max_depth=depth)):
                report = PatchStack([patch]).bind(family).report()
                assert {layer.channels for layer in report.matched} == set(channels[: depth + 1])
    deep = SD1.find("input", 4, 0)
    plan = found_at(HyperTile(max_depth=1, swap_size=1), (128, 128), layer=deep)[0]
    assert plan._chain.reducing._plan.tiling.tile == (32, 32)
    patch = HyperTile(tile_size=128, max_depth=1, swap_size=1, scale_depth=True)
    plan = found_at(patch, (128, 128), layer=deep)[0]
    assert plan._chain.reducing._plan.tiling.tile == (32, 32)
