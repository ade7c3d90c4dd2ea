# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Stages of self-attention: their order, what reduces, and how a run finds them."""

from dataclasses import dataclass

import pytest
import torch

from attnpatch.engine import (
    BoundPatch,
    Call,
    Inner,
    Patch,
    PatchStack,
    SelfAttention,
    Site,
    layer_table,
)

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

    kind = "test_mark"

    def bind(self, table):
        return BoundMark(self, table)

    def state(self):
        return dict(self.__dict__), {}

    @classmethod
    def from_state(cls, values, tensors):
        return cls(**values)


class BoundMark(BoundPatch):
    attention = "self"
    skipped = ()

    def __init__(self, patch, table):
        self.patch = patch
        self.skipped = [None if x.block == patch.only else "elsewhere" for x in table]

    def phase(self, call):
        return "on" if call.progress >= self.patch.start else None

    def stage(self, layer, call, phase):
        return None if layer.number == 8 else MarkStage(self.patch)


class MarkStage:
    def __init__(self, patch):
        self.name, self.reduces, self.whole = patch.name, patch.reduces, patch.whole
        self.needs_grid = False

    def reduce(self, site, k_input, v_input):
        return k_input[:, ::2], v_input[:, ::2]

    def attend(self, site, q, k, v, heads, inner):
        TRACE.append((self.name, inner.plain, k.shape[1]))
        return inner(q, k, v) + 1


TRACE = []


def site(index=0, call=CALL):
    return Site(TABLE[index], call, attention="self")


def run_all(found, tokens=4, plain=True):
    TRACE.clear()
    x = torch.zeros(2, tokens, 8)
    k, v = found.reduce(site(), x, x)
    return found.attend(site(), x, k, v, 2, lambda q, k, v: q, plain=plain)


def test_first_stage_is_outermost_and_reducing_innermost():
    stack = PatchStack([Mark("r", reduces=True), Mark("a"), Mark("b")])
    found = stack.bind(TABLE).self_attention(site())
    assert found.reduces
    out = run_all(found)
    assert TRACE == [("a", False, 2), ("b", False, 2), ("r", True, 2)]
    assert torch.equal(out, torch.full((2, 4, 8), 3.0))
    run_all(found, plain=False)
    assert TRACE[-1] == ("r", False, 2), "a foreign attention is not plain"


def test_last_reducing_stage_wins():
    stack = PatchStack([Mark("r", reduces=True), Mark("s", reduces=True)])
    run_all(stack.bind(TABLE).self_attention(site()))
    assert [name for name, *_ in TRACE] == ["s"]


def test_nothing_is_reduced_where_a_stage_needs_all_tokens():
    found = PatchStack([Mark("r", reduces=True), Mark("w", whole=True)]).bind(TABLE)
    found = found.self_attention(site())
    assert not found.reduces
    run_all(found)
    assert TRACE == [("w", True, 4)]


def test_run_finds_stages_by_layer_and_time():
    run = PatchStack([Mark("a"), Mark("late", start=0.8)]).bind(TABLE)
    assert run.self_layers == tuple(x for x in TABLE if x.block == "input")
    assert run.cross_layers == ()
    assert run.self_attention(site(TABLE.find("middle", 0, 0).index)) is None
    (eight,) = (x for x in TABLE if (x.block, x.number) == ("input", 8))
    assert run.self_attention(Site(eight, CALL, attention="self")) is None
    run_all(run.self_attention(site()))
    assert [name for name, *_ in TRACE] == ["a"]
    late = Call(latent=(8, 8), batch=2, chunks=(1, 0), progress=0.9)
    run_all(run.self_attention(site(call=late)))
    assert [name for name, *_ in TRACE] == ["a", "late"]
    again = Call(latent=(8, 8), batch=2, chunks=(1, 0), progress=0.95)
    assert run.self_attention(site(call=again)) is run.self_attention(site(call=late))


def test_inactive_patches_cost_nothing():
    run = PatchStack([Mark("late", start=0.8)]).bind(TABLE)
    assert run.self_attention(site()) is None
    assert not run.active(CALL)
    assert PatchStack().bind(TABLE).self_attention(site()) is None


def test_no_stage_is_false():
    assert not SelfAttention([])
    assert SelfAttention([MarkStage(Mark("a"))])
    x = torch.ones(1, 2, 3)
    assert Inner(lambda q, k, v: q + k + v, plain=True)(x, x, x).sum() == 18


def test_degraded_needs_one_for_each_chunk():
    with pytest.raises(
        ValueError, match="degraded: expected one for each of the 2 cond or uncond parts, got 1"
    ):
        Call(latent=(8, 8), batch=2, chunks=(1, 0), degraded=(0,))
    plain = Call(latent=(8, 8), batch=2, chunks=(1, 0))
    assert plain == Call(latent=(8, 8), batch=2, chunks=(1, 0), record=object())
    assert plain != Call(latent=(8, 8), batch=2, chunks=(1, 0), degraded=(-1, 3))
