# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the operators in plain torch cost a GPU: no launch and no temporary more than this.

Fake tensors of a GPU have the sizes of a layer of SDXL at 1024 pixels, in float16, and nothing is
computed.
"""

import importlib
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from launches import count
from torch._subclasses.fake_tensor import FakeTensorMode

from attnpatch.ops import plain

MIB = 2**20
PAGE = Path(__file__).parents[2] / "docs" / "cuda.md"
GRID = (64, 64)


def heads(tokens, batch=2):
    return (
        torch.empty(batch, tokens, 640, dtype=torch.float16).unflatten(2, (10, 64)).transpose(1, 2)
    )


def branch(masked=False, shared_softmax=0):
    q, text, image = heads(4096), heads(77), heads(16)
    rows = [torch.empty(2, dtype=torch.int64)]
    masks = torch.empty(1, 1, 4096) if masked else None
    arguments = (q, text, text, [image], [image], rows, torch.empty(1, 2), masks, shared_softmax)
    return plain.branch_attention, arguments


def biased(terms):
    q = heads(4096)
    return plain.biased_attention, (q, q, q, *[torch.empty(1, 4096, terms)] * 2)


def columns():
    q = heads(4096)
    return plain.attention_column_mean, (q, q, q, [1])


def tiles(own, stride, shared):
    q, keys = heads(4096), heads(own)
    far = [heads(1024)] * 2 if shared else []
    return plain.tile_attention, (q, keys, keys, GRID, (32, 32), (0, 0), stride, *far)


def pooled(tile=GRID, mode="avg", blend=1.0):
    x = torch.empty(2, 4096, 640, dtype=torch.float16)
    return plain.pool_tokens, (x, GRID, tile, (0, 0), (2, 2), (2, 2), mode, [blend])


def blurred():
    x0 = torch.empty(2, 4, 128, 128, dtype=torch.float16)
    return plain.blur_and_blend, (x0, torch.empty(2, 16, 16), 2.0)


CASES = {  # The names are those of the table in docs/cuda.md, for what stands there.
    # Launches, MiB of new memory, MiB read and written. The result has 10 MiB.
    "an image prompt (77 + 16 tokens)": (branch, 14, 20.7, 71.5),
    "with a mask": (lambda: branch(masked=True), 16, 20.7, 91.5),
    "in one softmax with the text": (lambda: branch(shared_softmax=1), 21, 21.5, 75.4),
    "in one softmax, with a mask": (lambda: branch(True, 1), 25, 21.6, 96.4),
    # What has a size of queries or keys by channels of the bias is small; no bias is made whole.
    "gains on keys: a bias of one term": (lambda: biased(1), 38, 56.9, 153.0),
    "a bias of four terms": (lambda: biased(4), 38, 70.7, 180.5),
    "a bias of no terms": (lambda: biased(0), 1, 10.4, 40.4),
    "column means of one row": (columns, 17, 27.8, 88.3),
    "tiles": (lambda: tiles(4096, (), False), 5, 50.3, 130.3),
    "tiles and 1024 shared keys": (lambda: tiles(4096, (), True), 11, 51.1, 159.1),
    "pooled tiles and 1024 shared keys": (lambda: tiles(1024, (2, 2), True), 9, 31.1, 104.1),
    "pooling by 2 × 2": (pooled, 1, 2.5, 12.5),
    "pooling by 2 × 2, blended": (lambda: pooled(blend=0.3), 2, 5.0, 20.0),
    "picking tokens": (lambda: pooled(blend=0.0), 1, 2.5, 5.0),
    "pooling by 2 × 2 in tiles": (lambda: pooled((16, 16)), 2, 5.0, 20.0),
    "blurring a latent": (blurred, 12, 2.8, 5.8),
}


def fused_attention(q, k, v, scale):
    flash = torch.ops.aten._scaled_dot_product_flash_attention.default
    return flash(q, k, v, scale=scale)[0]


@pytest.mark.parametrize("name", CASES)
def test_no_launch_and_no_temporary_is_added(name, monkeypatch):
    make, launches, allocated, moved = CASES[name]
    # Without a GPU to look at, torch chooses no fused kernel for its tensors.
    attention = importlib.import_module("attnpatch.ops.plain.attention")
    monkeypatch.setattr(attention, "_kernel", lambda device, dtype, head_size: "flash")
    monkeypatch.setattr(F, "scaled_dot_product_attention", fused_attention)
    with FakeTensorMode(), torch.device("cuda"):
        function, arguments = make()
        found = count(function, *arguments)
    assert found.count <= launches, found.names
    assert found.allocated <= (allocated + 0.06) * MIB
    assert found.moved <= (moved + 0.06) * MIB


def test_the_page_tells_the_counts():
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) >= 14
    for name, launches, moved in rows:
        _, expected, _, mib = CASES[name]
        assert (int(launches), int(moved)) == (expected, int(mib + 0.5)), name


def test_the_counts_are_counts():
    """One launch for a sum; none for views and for memory; expanded numbers are read once."""
    x = torch.zeros(4, 8)
    found = count(lambda: x.t()[1:].expand(7, 4) + torch.empty(7, 4))
    assert (found.count, found.allocated, found.moved) == (1, 2 * 112, 3 * 112)
    found = count(lambda: x[:, :1].expand(4, 100).clone())
    assert (found.count, found.moved) == (1, 16 + 1600)


@pytest.mark.parametrize(
    ("function", "arguments"), [make() for make, *_ in CASES.values()], ids=list(CASES)
)
def test_any_device_takes_them(function, arguments):
    """The meta device stands for those that torch has and we have never seen."""

    def meta(value):
        if isinstance(value, (list, tuple)):
            return type(value)(map(meta, value))
        return value.to("meta") if isinstance(value, torch.Tensor) else value

    with torch.no_grad():
        found = function(*meta(arguments))
    for result in found if isinstance(found, (list, tuple)) else [found]:
        assert result.device.type == "meta"
