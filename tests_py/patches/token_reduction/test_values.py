# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The patches as values: ranges, text, files, reports, and what decides on them."""

import copy
import pickle
from dataclasses import FrozenInstanceError, fields

import pytest
import torch

import attnpatch
from attnpatch.engine import Call, PatchStack, Site, layer_table
from flat_attention import attend_flat

KINDS = [attnpatch.SlothfulAttention, attnpatch.NearSightedTile, attnpatch.NearSightedAttention]
RELATIVES = [attnpatch.TokenMerging, attnpatch.HyperTile]
PATCHES = [
    attnpatch.SlothfulAttention(
        in_slothful=3, out_mode="1D_MAX", compat="comfyui_slothful_attention"
    ),
    attnpatch.NearSightedTile(tile_size=48, seed=7),
    attnpatch.NearSightedAttention.simple(slothful=3, out_blend=0.5, time_decay=0),
]
SD1 = layer_table("sd1")
CALL = Call(latent=(64, 64), progress=0.4)


def self_site(layer=SD1[0], call=CALL):
    return Site.over_image(layer, call)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.type_name)
def test_values(patch, tmp_path):
    again = [
        copy.copy(patch),
        copy.deepcopy(patch),
        pickle.loads(pickle.dumps(patch)),
        eval(repr(patch), vars(attnpatch)),
        type(patch).from_state(*patch.state()),
    ]
    PatchStack([patch]).save(tmp_path / "stack.safetensors")
    again += PatchStack.load(tmp_path / "stack.safetensors")
    for twin in again:
        assert twin == patch
        assert hash(twin) == hash(patch)
    assert patch != type(patch)()
    with pytest.raises(FrozenInstanceError):
        patch.seed = 3


@pytest.mark.parametrize("kind", KINDS + RELATIVES, ids=lambda kind: kind.type_name)
def test_ranges(kind):
    for field in fields(kind):
        meta = field.metadata
        assert meta["text"]
        if "low" in meta:
            assert meta["low"] <= field.default <= meta["high"]
            for end in ("low", "high"):
                assert getattr(kind(**{field.name: meta[end]}), field.name) == meta[end]
            for wrong in (meta["low"] - 1, meta["high"] + 1):
                with pytest.raises(ValueError, match=f"^{field.name}: expected {meta['low']} to"):
                    kind(**{field.name: wrong})
            with pytest.raises(TypeError, match=f"^{field.name}: expected a"):
                kind(**{field.name: "much"})
        elif "options" in meta:
            for option in meta["options"]:
                assert getattr(kind(**{field.name: option}), field.name) == option
            first = "None" if field.name == "compat" else "'1D_AVG'"
            with pytest.raises(ValueError, match=f"^{field.name}: expected one of {first}, "):
                kind(**{field.name: "3D_AVG"})
        else:
            assert meta["type"] is bool
            assert getattr(kind(**{field.name: True}), field.name) is True


# The documented ranges, by hand: what the table of fields says is what nodes and people rely on.
TIME = {"peak_time": (0, 1), "time_decay": (0, 4)}
SIDES = {
    f"{side}_{name}": limits
    for side in ("in", "out")
    for name, limits in {
        "depth_decay": (0, 4),
        "slothful": (0, 50),
        "k_blend": (0, 1),
        "v_blend": (0, 1),
    }.items()
}
SEED = {"seed": (0, 2**32 - 1)}
RANGES = {
    attnpatch.SlothfulAttention: TIME | SIDES,
    attnpatch.NearSightedTile: SEED
    | {"tiling_max_depth": (1, 3), "global_ratio": (0, 1), "tile_size": (16, 64)},
    attnpatch.NearSightedAttention: TIME
    | SIDES
    | SEED
    | {"tiling_max_depth": (1, 3)}
    | {f"{end}_tile_size": (16, 64) for end in ("base", "peak")}
    | {f"{end}_global_ratio": (0, 1) for end in ("base", "peak")},
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type_name)
def test_documented_ranges(kind):
    found = {f.name: f.metadata for f in fields(kind) if "low" in f.metadata}
    assert {n: (meta["low"], meta["high"]) for n, meta in found.items()} == RANGES[kind]


def test_ranges_of_the_simple_form():
    simple = attnpatch.NearSightedAttention.simple
    for name, (low, high) in {"slothful": (0, 50), "in_blend": (0, 1), "out_blend": (0, 1)}.items():
        simple(**{name: low})
        simple(**{name: high})
        for wrong in (low - 0.1, high + 0.1, float("nan")):
            with pytest.raises(ValueError, match=f"^{name}: expected {low}.0 to {high}.0"):
                simple(**{name: wrong})
        with pytest.raises(TypeError, match=f"^{name}: expected a number, got 'much'"):
            simple(**{name: "much"})
    with pytest.raises(ValueError, match=r"^peak_tile_size: expected 16 to 64, got 65"):
        simple(peak_tile_size=65)
    with pytest.raises(TypeError, match="wrong"):
        simple(wrong=1)


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match=r"in_mode: expected one of '1D_AVG', .* got 'AVG'"):
        attnpatch.SlothfulAttention(in_mode="AVG")
    with pytest.raises(ValueError, match=r"peak_time: expected 0.0 to 1.0, got nan"):
        attnpatch.SlothfulAttention(peak_time=float("nan"))
    with pytest.raises(TypeError, match=r"tile_size: expected a whole number, got 24.5"):
        attnpatch.NearSightedTile(tile_size=24.5)


def test_simple_form():
    simple = attnpatch.NearSightedAttention.simple(slothful=3, in_blend=0.25, peak_tile_size=48)
    assert simple == attnpatch.NearSightedAttention(
        in_slothful=3,
        out_slothful=3,
        in_depth_decay=1.5,
        out_depth_decay=1.5,
        in_k_blend=0.25,
        in_v_blend=0.25,
        peak_tile_size=48,
    )
    assert attnpatch.NearSightedAttention.simple().in_slothful == 4


def test_report_says_where_it_acts():
    report = PatchStack([attnpatch.SlothfulAttention()]).bind(SD1).report()
    names = {(layer.block, layer.channels) for layer in report.matched}
    # a stride of 6 at depth 1, of 1.5 at depth 2, of 0.38 at depth 4; 4, 1 and 0.25
    assert names == {("input", 320), ("input", 640), ("output", 320)}
    assert "its stride is 0.38 at most" in str(report)
    report = PatchStack([attnpatch.NearSightedTile(tiling_max_depth=1)]).bind("sdxl").report()
    assert report.matched == ()
    assert "deeper than what is tiled" in str(report)


def test_nothing_to_do_costs_nothing():
    for patch in (
        attnpatch.SlothfulAttention(in_slothful=0, out_slothful=1),
        attnpatch.NearSightedTile(tile_size=64),
        attnpatch.NearSightedAttention.simple(slothful=0, base_tile_size=64, peak_tile_size=64),
    ):
        run = PatchStack([patch]).bind(SD1)
        assert all(run.at(self_site(layer)) is None for layer in SD1)
        assert run.layers_over("text") == ()
    # Two tiles that see as many tokens of the picture as there are gain nothing.
    run = PatchStack([attnpatch.NearSightedTile(global_ratio=1)]).bind(SD1)
    wide = Call(latent=(32, 64), progress=0.4)
    assert run.at(self_site(call=wide)) is None
    assert run.at(self_site()) is not None


def tiling_of(patch, **call):
    call = Call(**{"latent": (68, 70), "progress": 0.4, **call})
    found = PatchStack([patch]).bind(SD1).at(self_site(call=call))
    return found._chain.reducing._plan.tiling


def test_offset_follows_from_seed_timestep_and_layer():
    offsets = {
        seed: [
            tiling_of(attnpatch.NearSightedTile(seed=seed), progress=p).offset for p in (0.1, 0.2)
        ]
        for seed in range(20)
    }
    assert offsets == {
        seed: [
            tiling_of(attnpatch.NearSightedTile(seed=seed), progress=p).offset for p in (0.1, 0.2)
        ]
        for seed in range(20)
    }
    drawn = {pair for pairs in offsets.values() for pair in pairs}
    # 68 rows in 3 tiles of 23, 70 columns in 3 of 24
    assert drawn == {(y, x) for y in range(2) for x in range(3)}
    assert any(first != second for first, second in offsets.values())


def test_hosts_that_tell_timestep_or_progress_agree():
    patch = attnpatch.NearSightedTile(seed=1)
    for timestep in (0, 1, 333, 999):
        by_progress = tiling_of(patch, progress=1 - timestep / 999)
        assert by_progress == tiling_of(patch, progress=None, timestep=timestep)


def test_time_must_be_known_where_it_counts():
    unknown = Call(latent=(64, 64))
    run = PatchStack([attnpatch.SlothfulAttention()]).bind(SD1)
    with pytest.raises(ValueError, match=r"progress: SlothfulAttention needs it or the timestep"):
        run.at(self_site(call=unknown))
    still = PatchStack([attnpatch.SlothfulAttention(time_decay=0)]).bind(SD1)
    assert still.at(self_site(call=unknown)) is not None


def test_tokens_that_others_changed_are_left_alone():
    for patch in PATCHES[1:]:
        found = PatchStack([patch]).bind(SD1).at(self_site())
        few = torch.randn(1, 100, 8)
        assert found.reduce(few, few) == (few, few)
        seen = []

        def attention(q, k, v, seen=seen):
            seen.append((q.shape[1], k.shape[1]))
            return q

        attend_flat(found, few, few, few, 2, attention)
        attend_flat(found, torch.randn(1, 4096, 8), few, few, 2, attention)
        assert seen == [(100, 100), (4096, 100)]


def test_reduce_tokens_by_hand():
    x = torch.arange(2 * 5 * 7 * 3, dtype=torch.float32).view(2, 35, 3)
    field = x.view(2, 5, 7, 3)
    keys, values = attnpatch.reduce_tokens(x, (5, 7), 5.5)  # 3 rows by 2 columns
    assert keys is values
    assert torch.equal(keys, field[:, ::3, ::2].flatten(1, 2))
    keys, values = attnpatch.reduce_tokens(x, (5, 7), 5.5, mode="2D_MAX", v_blend=1, size=1e9)
    assert torch.equal(keys, field[:, ::3, ::2].flatten(1, 2))
    assert torch.equal(values, field[:, -1:, -1:].expand(2, 2, 4, 3).flatten(1, 2))
    assert attnpatch.reduce_tokens(x, (5, 7), 1) == (x, x)
    with pytest.raises(ValueError, match=r"mode: expected one of .* got 'AVG'"):
        attnpatch.reduce_tokens(x, (5, 7), 2, mode="AVG")
    with pytest.raises((RuntimeError, ValueError), match=r"x: "):
        attnpatch.reduce_tokens(x, (5, 8), 2)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type_name)
@pytest.mark.parametrize("quirks", [False, True])
def test_files_of_version_0_1_load(kind, quirks):
    """There a yes or no stood in place of the program's name."""
    new = kind(compat="comfyui_slothful_attention" if quirks else None)
    values, tensors = new.state()
    del values["compat"]
    assert kind.from_state({**values, "reference_quirks": quirks}, tensors) == new


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type_name)
def test_other_programs_are_not_imitated(kind):
    expected = "compat: expected one of None, 'comfyui_slothful_attention', got 'fooocus'"
    with pytest.raises(ValueError, match=expected):
        kind(compat="fooocus")
