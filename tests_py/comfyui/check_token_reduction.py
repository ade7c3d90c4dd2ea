# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Slothful and Near-sighted nodes, ours and the public pack's, in the real ComfyUI.

ATTNPATCH_SLOTHFUL names a checkout of comfyui_slothful_attention.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from narrow_models import make_model
from real_host import relative, sample  # first: it readies ComfyUI

from comfy_extras import nodes_hypertile, nodes_tomesd  # isort: skip

from attnpatch.nodes import NODE_CLASS_MAPPINGS

CHECKOUT = os.environ.get("ATTNPATCH_SLOTHFUL")
needs_pack = pytest.mark.skipif(
    CHECKOUT is None, reason="ATTNPATCH_SLOTHFUL names no checkout of comfyui_slothful_attention"
)
TOLERANCE = 1e-4
NAMES = [
    "SlothfulAttention",
    "NearSightedTile",
    "NearSightedAttention",
    "NearSightedAttentionSimple",
]
# The pack takes a model with other than eight heads for SDXL.
HEADS = {
    "sd1": {"num_heads": 8, "num_head_channels": -1},
    "sd2": {"num_head_channels": 16},  # two, four and eight heads
    "sdxl": {"num_head_channels": 4},
}
SIZES = {"sd1": (34, 20), "sd2": (34, 20), "sdxl": (36, 40)}


@cache
def model_of(family):
    return make_model("sd1" if family == "sd2" else family, **HEADS[family])


@cache
def pack():
    name = "reference_slothful"
    spec = importlib.util.spec_from_file_location(name, Path(CHECKOUT, "__init__.py"))
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NODE_CLASS_MAPPINGS


def apply(nodes, name, model, **changes):
    """Run a node on a model; what `changes` does not name has its default."""
    kind = nodes[name]
    values = {
        given: entry[1]["default"] if len(entry) > 1 else entry[0][0]
        for given, entry in kind.INPUT_TYPES()["required"].items()
        if given != "model"
    }
    known = {given: value for given, value in changes.items() if given in values}
    more = kind.INPUT_TYPES().get("optional", {})
    known |= {given: value for given, value in changes.items() if given in more}
    with torch.inference_mode():  # as ComfyUI runs nodes
        return getattr(kind(), kind.FUNCTION)(model=model, **(values | known))[0]


SMALL = {"tile_size": 16, "base_tile_size": 16, "peak_tile_size": 16}
CASES = {
    "tiles": SMALL,
    "deep": SMALL | {"tiling_max_depth": 3, "global_ratio": 0.0, "base_global_ratio": 0.0},
    "blends": SMALL
    | {"in_k_blend": 0.5, "out_v_blend": 1.0, "in_blend": 0.3, "out_mode": "1D_MAX", "slothful": 7},
    "pooled": SMALL | {"in_k_blend": 1.0, "in_v_blend": 1.0, "in_blend": 1.0, "time_decay": 0.0},
}


@cache
def plain_sample(family, size):
    return sample(model_of(family), size=size)


ALL = [("sd1", name, case) for name in NAMES for case in CASES]
ALL += [(family, name, "tiles") for family in ("sd2", "sdxl") for name in NAMES]


@needs_pack
@pytest.mark.parametrize(("family", "name", "case"), ALL)
def test_quirks_equal_the_pack(family, name, case):
    model, size = model_of(family), SIZES[family]
    theirs = sample(apply(pack(), name, model, **CASES[case]), size=size)
    ours = apply(NODE_CLASS_MAPPINGS, name, model, reference_quirks=True, **CASES[case])
    assert relative(sample(ours, size=size), theirs) < TOLERANCE
    assert relative(plain_sample(family, size), theirs) > 100 * TOLERANCE


@needs_pack
@pytest.mark.parametrize("name", NAMES)
def test_pack_before_and_after_ours(name):
    """Both act: where theirs has changed the tokens, ours leaves them alone."""
    model, size = model_of("sd1"), SIZES["sd1"]
    theirs = apply(pack(), name, model, **SMALL)
    other = "SlothfulAttention" if name == "NearSightedTile" else "NearSightedTile"
    after = apply(NODE_CLASS_MAPPINGS, other, theirs, **SMALL)
    first = apply(NODE_CLASS_MAPPINGS, other, model, **SMALL)
    before = apply(pack(), name, first, **SMALL)
    for both in (after, before):
        out = sample(both, size=size)
        assert bool(torch.isfinite(out).all())
        assert relative(out, plain_sample("sd1", size)) > TOLERANCE


OTHERS = {
    "HyperTile": {"tile_size": 64, "swap_size": 1, "max_depth": 0, "scale_depth": False},
    "TomePatchModel": {"ratio": 0.5},
}


def others_node(name, model):
    """Apply the host's own node."""
    extras = {"HyperTile": nodes_hypertile, "TomePatchModel": nodes_tomesd}
    with torch.inference_mode():
        return getattr(extras[name], name).execute(model, **OTHERS[name])[0]


def sample_seeded(model, **options):
    torch.manual_seed(0)  # the host's nodes draw from it
    return sample(model, **options)


# Ours, each only where the host's nodes act as well: at the first depth.
OURS = {
    "SlothfulAttention": {"in_depth_decay": 4.0, "out_depth_decay": 4.0},
    "NearSightedTile": SMALL | {"tiling_max_depth": 1},
    "AttentionPatchesTokenMerging": {},
    "AttentionPatchesHyperTile": {"tile_size": 64},
}


@pytest.mark.parametrize("theirs", OTHERS)
@pytest.mark.parametrize("ours", OURS)
def test_the_hosts_own_nodes_before_and_after_ours(theirs, ours, caplog):
    """Where theirs change the tokens, ours leave them alone, in either order, and say so once."""
    model, size = model_of("sd1"), (32, 24)
    expected = sample_seeded(others_node(theirs, model), size=size)
    assert relative(expected, sample_seeded(model, size=size)) > TOLERANCE
    alone = apply(NODE_CLASS_MAPPINGS, ours, model, **OURS[ours])
    assert relative(sample_seeded(alone, size=size), expected) > TOLERANCE
    for both in (
        apply(NODE_CLASS_MAPPINGS, ours, others_node(theirs, model), **OURS[ours]),
        others_node(theirs, alone),
    ):
        caplog.clear()
        assert torch.equal(sample_seeded(both, size=size), expected)
        (warning,) = [record for record in caplog.records if record.name == "attnpatch"]
        assert "another patch has merged or cut" in warning.message


@pytest.mark.parametrize("name", NAMES)
def test_any_size_and_nothing_stays(name):
    model, size = model_of("sd1"), (37, 23)
    plain = plain_sample("sd1", size)
    patched = apply(NODE_CLASS_MAPPINGS, name, model, **SMALL)
    out = sample(patched, size=size)
    assert bool(torch.isfinite(out).all())
    assert relative(out, plain) > 100 * TOLERANCE
    sample(patched, size=(17, 41))
    assert torch.equal(out, sample(patched, size=size))
    assert torch.equal(sample(model, size=size), plain)
