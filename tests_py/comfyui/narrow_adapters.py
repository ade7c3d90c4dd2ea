# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters with random weights that fit the UNets of ``narrow_models``."""

from __future__ import annotations

import sys
from pathlib import Path

from narrow_models import CONTEXT, EMBED, WIDTH, noise

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))
from fake_adapters import FAMILIES, Maker

_RESAMPLERS = {"sd1": {"dim": 768, "heads": 12}, "sdxl": {"dim": 1280, "heads": 20}}


def make_state(family, kind="linear", seed=0):
    """Make the nested state dict of a base adapter ("linear", 4 tokens) or of a "plus" one."""
    maker, context = Maker(seed=seed), CONTEXT[family]
    if kind == "linear":
        projection = maker.image_projection(EMBED, context)
    else:
        projection = maker.resampler(EMBED, output=context, **_RESAMPLERS[family])
    channels = [size * WIDTH // 320 for size in FAMILIES[context][1]]
    return {"image_proj": projection, "ip_adapter": maker.sites(channels, context)}


def make_features(pictures=1, kind="linear", seed=20):
    """Make what an image encoder gives: of the pictures, and of the negative one."""
    shape = (EMBED,) if kind == "linear" else (257, EMBED)
    return noise(pictures, *shape, seed=seed), noise(1, *shape, seed=seed + 1)
