# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Wrappers around self-attention: their order, what reduces, and how a stack finds them."""

from dataclasses import dataclass

import pytest
import torch

from attnpatch.engine import (
    BoundPatch,
    Call,
    Edits,
    Inner,
    Patch,
    PatchStack,
    Site,
    layer_table,
)
from flat_attention import attend_flat

TABLE = layer_table("sd1")
CALL = Call(latent=(8, 8), batch=2, chunks=(1, 0), progress=0.5)


@dataclass(frozen=True)
class Mark(Patch):
    """Doubles queries, adds to the output, and may drop every second token."""

    name: str
    reduces: bool = False
    whole: bool = False
    start: float = 0.0
    only: str = "input"

    type_name = "test_mark"

    def bind(self, table, index=0):
        return BoundMark(self, table)

    def state(self):
        return dict(self.__dict__), {}

    @classmethod
    def from_state(cls, values, tensors):
        return cls(**values)


class BoundMark(BoundPatch):
    keys = "image"
    skipped = ()

    def __init__(self, patch, table):
        self.patch = patch
        self.skipped = [None if x.block == patch.only else "elsewhere" for x in table]

    def time_key(self, call):
        return "on" if call.progress >= self.patch.start else None

    def edits(self, call, time_key):
        layers = [layer.index for layer in TABLE if layer.number != 8]
        return Edits(wrappers=dict.fromkeys(layers, MarkWrapper(self.patch)))


class MarkWrapper:
    def __init__(self, patch):
        self.name, self.reduces = patch.name, patch.reduces
        self.needs_all_tokens = patch.whole
        self.needs_grid = False

    def prepare(self, site, dtype, device):
        TRACE.append((self.name, "prepared", site.layer.index))

    def reduce(self, site, k_input, v_input):
        return k_input[:, ::2], v_input[:, ::2]

    def attend(self, site, q, k, v, inner):
        TRACE.append((self.name, inner.is_softmax, k.shape[2]))
        return inner(q, k, v) + 1


TRACE = []


def site(index=0, call=CALL):
    return Site.over_image(TABLE[index], call)


def run_all(found, tokens=4, plain=True):
    TRACE.clear()
    x = torch.zeros(2, tokens, 8)
    k, v = found.reduce(x, x)
    return attend_flat(found, x, k, v, 2, lambda q, k, v: q, is_softmax=plain)


def test_first_stage_is_outermost_and_reducing_innermost():
    stack = PatchStack([Mark("r", reduces=True), Mark("a"), Mark("b")])
    found = stack.bind(TABLE).at(site())
    assert found.reduces
    out = run_all(found)
    assert TRACE == [("a", False, 2), ("b", False, 2), ("r", True, 2)]
    assert torch.equal(out, torch.full((2, 4, 8), 3.0))
    run_all(found, plain=False)
    assert TRACE[-1] == ("r", False, 2), "a foreign attention is not plain"


def test_last_reducing_stage_wins():
    stack = PatchStack([Mark("r", reduces=True), Mark("s", reduces=True)])
    run_all(stack.bind(TABLE).at(site()))
    assert [name for name, *_ in TRACE] == ["s"]


def test_nothing_is_reduced_where_a_stage_needs_all_tokens():
    found = PatchStack([Mark("r", reduces=True), Mark("w", whole=True)]).bind(TABLE)
    found = found.at(site())
    assert not found.reduces
    run_all(found)
    assert TRACE == [("w", True, 4)]


def test_run_finds_stages_by_layer_and_time():
    run = PatchStack([Mark("a"), Mark("late", start=0.8)]).bind(TABLE)
    assert run.layers_over("image") == tuple(x for x in TABLE if x.block == "input")
    assert run.layers_over("text") == ()
    assert run.at(site(TABLE.find("middle", 0, 0).index)) is None
    (eight,) = (x for x in TABLE if (x.block, x.number) == ("input", 8))
    assert run.at(Site.over_image(eight, CALL)) is None
    run_all(run.at(site()))
    assert [name for name, *_ in TRACE] == ["a"]
    late = Call(latent=(8, 8), batch=2, chunks=(1, 0), progress=0.9)
    run_all(run.at(site(call=late)))
    assert [name for name, *_ in TRACE] == ["a", "late"]
    again = Call(latent=(8, 8), batch=2, chunks=(1, 0), progress=0.95)
    assert run.plan(again, ("image",)) is run.plan(late, ("image",))


def test_inactive_patches_cost_nothing():
    run = PatchStack([Mark("late", start=0.8)]).bind(TABLE)
    assert run.at(site()) is None
    assert not run.active(CALL)
    assert PatchStack().bind(TABLE).at(site()) is None


def test_inner_calls_what_it_is_given():
    x = torch.ones(1, 2, 3)
    assert Inner(lambda q, k, v: q + k + v, is_softmax=True)(x, x, x).sum() == 18


def test_degraded_needs_one_for_each_chunk():
    with pytest.raises(
        ValueError, match="degraded: expected one for each of the 2 cond or uncond parts, got 1"
    ):
        Call(latent=(8, 8), batch=2, chunks=(1, 0), degraded=(0,))
    plain = Call(latent=(8, 8), batch=2, chunks=(1, 0))
    assert plain == Call(latent=(8, 8), batch=2, chunks=(1, 0), record=object())
    assert plain != Call(latent=(8, 8), batch=2, chunks=(1, 0), degraded=(-1, 3))
