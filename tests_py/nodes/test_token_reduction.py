# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The nodes of fewer tokens: what their widgets make of a model, and several in a row."""

from dataclasses import fields

import pytest
import torch
from running import run

from attnpatch import (
    HyperTile,
    NearSightedAttention,
    NearSightedTile,
    PatchStack,
    SlothfulAttention,
    TokenMerging,
    report,
)
from attnpatch.hosts.comfyui.unet.install import find_patched_model
from attnpatch.nodes import NODES

BY_ID = {spec.id: spec for spec in NODES}
KINDS = {
    "SlothfulAttention": SlothfulAttention,
    "NearSightedTile": NearSightedTile,
    "NearSightedAttention": NearSightedAttention,
    "AttentionPatchesTokenMerging": TokenMerging,
    "AttentionPatchesHyperTile": HyperTile,
}
RENAMED = {"tile_seed": "seed", "cell_seed": "seed", "reference_quirks": "compat"}
CHANGED = {"FLOAT": 0.5, "INT": 3, "BOOLEAN": True, "COMBO": "1D_MAX"}


def patches_of(model):
    return find_patched_model(model).run.stack


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_widgets_are_the_parameters(model, name, kind):
    (patched,) = run(name, model=model())
    assert patches_of(patched) == PatchStack([kind()]), "defaults are those of the patch"
    widgets = [given for given in BY_ID[name].inputs if given.widget]
    assert {RENAMED.get(i.id, i.id) for i in widgets} == {f.name for f in fields(kind)}
    for given in widgets:
        value = CHANGED[given.type]
        if given.type in ("FLOAT", "INT"):
            value = min(max(value, given.minimum + given.step), given.maximum)
        (patched,) = run(name, model=model(), **{given.id: value})
        if given.id == "reference_quirks":
            value = "comfyui_slothful_attention" if value else None
        changed = kind(**{RENAMED.get(given.id, given.id): value})
        assert patches_of(patched) == PatchStack([changed])
        assert changed != kind() or value == given.default


def test_simple_node(model):
    (patched,) = run("NearSightedAttentionSimple", model=model(), slothful=3.0, in_blend=0.25)
    assert patches_of(patched) == PatchStack(
        [NearSightedAttention.simple(slothful=3, in_blend=0.25)]
    )


# A size at which the small UNet's first layers can be tiled.
SIZE = (34, 24)


def test_relatives_in_a_row_do_not_clash(model, render):
    """Where another pack's token merging meets tiles, tokens are lost; here the last acts."""
    plain = render(model(), size=SIZE)
    merging, tiles = "AttentionPatchesTokenMerging", "AttentionPatchesHyperTile"
    small = {"tile_size": 64}
    for first, second in ((merging, tiles), (tiles, merging), ("SlothfulAttention", merging)):
        options = {merging: {}, tiles: small, "SlothfulAttention": {}}
        (both,) = run(first, model=model(), **options[first])
        (both,) = run(second, model=both, **options[second])
        (alone,) = run(second, model=model(), **options[second])
        out = render(both, size=SIZE)
        assert report(both).matched == report(alone).matched or first == "SlothfulAttention"
        assert (out - plain).abs().max() > 1e-3 * plain.std()
        if first != "SlothfulAttention":  # which acts deeper as well
            assert torch.equal(out, render(alone, size=SIZE))
    assert torch.equal(render(model(), size=SIZE), plain)
