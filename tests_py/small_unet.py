# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A small UNet, a small adapter, and the formulas in float64."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings

from attnpatch.engine import Call, Site, make_layer_table
from attnpatch.patches import ImagePrompt

# The machine may be busy: time is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

HEADS = 2


@pytest.fixture(scope="session", params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request):
    """Where the host computes: CUDA too, where there is one, by our kernels or the references."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def table():
    """t = 0, 1 (input), 2 (middle), 3 to 6 (output); levels 0 and 1."""
    return make_layer_table(
        input=[(32, [1]), (64, [2])], middle=(64, [1]), output=[(64, [2, 1]), (32, [1, 1])]
    )


class SmallAdapter:
    """What patches need of an adapter: image tokens to each layer's keys and values."""

    def __init__(self, channels, context=12):
        generator = torch.Generator().manual_seed(5)
        self.channels = tuple(channels)
        self.weights = [
            [torch.randn(c, context, generator=generator) for _ in range(2)] for c in channels
        ]

    def project_sites(self, tokens):
        return [(tokens @ k.T, tokens @ v.T) for k, v in self.weights]

    def __str__(self):
        return "small adapter"


@pytest.fixture
def adapter(table):
    return SmallAdapter(table.channels)


@pytest.fixture
def tokens():
    """Image tokens (pictures, tokens, context)."""

    def make(pictures=1, count=4, seed=0):
        generator = torch.Generator().manual_seed(100 * seed + pictures)
        return torch.randn(pictures, count, 12, generator=generator)

    return make


@pytest.fixture
def prompt(adapter, tokens):
    """An image prompt of the small adapter."""

    def make(weight=1.0, *, pictures=1, negatives=1, count=4, seed=0, **options):
        negative = tokens(negatives, count, seed + 50) if negatives else None
        return ImagePrompt(adapter, (tokens(pictures, count, seed), negative), weight, **options)

    return make


@pytest.fixture
def qkv():
    """Queries (batch, h·w, channels) and text keys and values of a site, for a batch."""

    def make(site, text=7, dtype=torch.float32, seed=1):
        generator = torch.Generator().manual_seed(seed)
        batch, channels = site.call.batch, site.layer.channels
        counts = (site.grid[0] * site.grid[1], text, text)
        return [torch.randn(batch, n, channels, generator=generator).to(dtype) for n in counts]

    return make


@pytest.fixture
def site(table):
    """The site of a layer in a call of a 6×5 latent."""

    def make(layer=0, **call):
        return Site.over_text(table[layer], Call(**{"latent": (6, 5), "progress": 0.3, **call}))

    return make


def _split(tensor):
    return tensor.double().unflatten(-1, (HEADS, -1)).transpose(-3, -2)


def attention(q, k, v):
    """softmax(q kᵀ / √d) v for (tokens, channels), in float64."""
    q, k, v = _split(q), _split(k), _split(v)
    logits = q @ k.mT / q.shape[-1] ** 0.5
    return (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)


def scaled(k, v, weight, scaling):
    """Keys, values and the output's factor of a branch: docs/design/image-prompts.md, scaling."""
    k, v, one = k.double(), v.double(), weight * 0 + 1
    mean = v.mean(0, keepdim=True)
    penalised = weight * k.shape[-1] / 1280
    return {
        "V only": (k, v, weight),
        "K+V": (k * weight, v * weight, one),
        "K+V w/ C penalty": (k * penalised, v * penalised, one),
        "K+mean(V) w/ C penalty": (k * penalised, (v - mean) + mean * penalised, one),
    }[scaling]


@pytest.fixture
def formulas():
    return SimpleNamespace(attention=attention, scaled=scaled, heads=HEADS)
