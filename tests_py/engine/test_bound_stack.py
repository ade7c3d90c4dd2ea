# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""How a run works: when it does nothing, what it keeps, and what it says."""

import copy
import gc
import pickle
import threading
from collections import Counter

import pytest
import torch

from attnpatch import NearSightedTile
from attnpatch.engine import (
    BoundPatch,
    Call,
    Edits,
    Patch,
    PatchStack,
    Site,
    Span,
    Tokens,
    Weight,
    layer_table,
)
from attnpatch.engine.plan import Plan
from flat_attention import branches_at, terms_at

CPU = torch.device("cpu")


@pytest.fixture
def branches(table):
    def make(prompt, site, dtype=torch.float32):
        return branches_at(PatchStack([prompt]).bind(table), site, dtype)

    return make


NOTHING = {
    "weight 0": {"weight": 0.0},
    "weights 0 for every picture": {"weight": torch.zeros(1)},
    "layer not named": {"weight": {0: 1.0}},
    "empty window": {"start": 1.0, "end": 1.0},
    "window of no time at the beginning": {"start": 0.0, "end": 0.0},
    "before the window": {"start": 0.31},
    "after the window": {"end": 0.29},
    "end exclusive": {"end": 0.3, "end_exclusive": True},
    "curve at 0": {"weight": Weight(curve=[(0.3, 0.0), (0.4, 1.0)])},
    "empty mask": {"mask": torch.zeros(4, 4)},
    "all roles off": {"roles": {0: "off", 1: "off"}},
}


@pytest.mark.parametrize("options", NOTHING.values(), ids=NOTHING)
def test_nothing_to_do_is_none_and_bit_equal(prompt, site, table, qkv, options):
    here = site(3, chunks=(1, 0), batch=2)
    run = PatchStack([prompt(**options)]).bind(table)
    assert branches_at(run, here, torch.float32) is None
    q, k, v = qkv(here)
    assert terms_at(run, here, q, heads=2) is None
    plain = PatchStack().bind(table).attend(here, q, k, v, heads=2)
    heads = [t.unflatten(2, (2, -1)).transpose(1, 2) for t in (q, k, v)]
    unpatched = torch.nn.functional.scaled_dot_product_attention(*heads)
    assert torch.equal(run.attend(here, q, k, v, heads=2), plain)
    assert torch.equal(plain, unpatched.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start": 0.3},
        {"end": 0.3},
        {"start": 0.3, "end": 0.3},
        {"end": 0.31, "end_exclusive": 1},
    ],
    ids=str,
)
def test_windows_hold_their_ends(prompt, site, branches, options):
    assert branches(prompt(**options), site(0, progress=0.3)) is not None


def test_inactive_patches_leave_the_others_alone(prompt, site, branches, table, qkv):
    here = site(0)
    q, k, v = qkv(here)
    alone = PatchStack([prompt(0.5)]).bind(table)
    beside = PatchStack([prompt(0.0), prompt(0.5), prompt(1.0, end=0.1)]).bind(table)
    assert torch.equal(alone.attend(here, q, k, v, heads=2), beside.attend(here, q, k, v, heads=2))
    assert len(branches_at(beside, here, torch.float32).k) == 1


def test_unknown_progress_serves_full_windows_only(prompt, site, branches):
    here = site(0, progress=None)
    assert branches(prompt(), here) is not None
    for options in ({"start": 0.1}, {"end": 0.9}, {"weight": Weight(curve=[(0, 1)])}):
        with pytest.raises(ValueError, match="progress"):
            branches(prompt(**options), here)


def test_further_roles(prompt, site, branches):
    here = site(0, chunks=(0, 1, 2, 3), batch=4)
    found = branches(prompt(roles={2: "cond", 3: "off"}), here)
    assert found.rows[0].tolist() == [0, 1, 0, -1]
    assert found.weights.tolist() == [[1.0, 1.0, 1.0, 0.0]]


def test_self_attention_is_left_alone(prompt, site, branches):
    here = Site.over_image(site(0).layer, site(0).call)
    assert branches(prompt(), here) is None


def test_layouts_of_queries(prompt, site, table, qkv):
    """(batch, tokens, channels), and (batch, heads, tokens, head size) with any strides."""
    here = site(1, chunks=(1, 0), batch=2)
    q, k, v = qkv(here)
    run = PatchStack([prompt(0.5)]).bind(table)
    out = run.attend(here, q, k, v, heads=4)
    split = [t.unflatten(2, (4, -1)).transpose(1, 2) for t in (q, k, v)]
    assert torch.equal(run.attend(here, *split), out)
    assert torch.equal(run.attend(here, *[t.contiguous() for t in split]), out)
    assert out.is_contiguous()
    with pytest.raises(ValueError, match="with heads given"):
        run.attend(here, q, k, v)
    with pytest.raises(ValueError, match="heads: 3 do not divide 64 channels"):
        run.attend(here, q, k, v, heads=3)


def test_terms_are_what_is_added(prompt, site, table, qkv):
    here = site(1, chunks=(1, 0), batch=2)
    q, k, v = qkv(here)
    run = PatchStack([prompt(0.5, mask=torch.rand(8, 8)), prompt(0.2, seed=1)]).bind(table)
    plain = PatchStack().bind(table).attend(here, q, k, v, heads=2)
    torch.testing.assert_close(
        plain + terms_at(run, here, q, heads=2), run.attend(here, q, k, v, heads=2)
    )


def test_joint_terms_cannot_be_split(prompt, site, table, qkv):
    here = site(1)
    run = PatchStack([prompt(0.5, shared_softmax=True)]).bind(table)
    with pytest.raises(ValueError, match="shared_softmax"):
        terms_at(run, here, qkv(here)[0], heads=2)


def test_joint_terms_are_the_difference_to_plain_attention(prompt, site, table, qkv):
    here = site(1, chunks=(1, 0), batch=2)
    q, k, v = qkv(here)
    run = PatchStack([prompt(0.5, shared_softmax=True), prompt(0.7, seed=1)]).bind(table)
    plain = PatchStack().bind(table).attend(here, q, k, v, heads=2)
    torch.testing.assert_close(
        plain + terms_at(run, here, q, k, v, heads=2), run.attend(here, q, k, v, heads=2)
    )


def test_wrong_batch_and_wrong_tokens_are_named(prompt, site, table, qkv):
    here = site(0, chunks=(1, 0), batch=2)
    q, k, v = qkv(here)
    run = PatchStack([prompt(mask=torch.ones(4, 4))]).bind(table)
    with pytest.raises(ValueError, match=r"q: expected the 2 rows of the call at .*, got 1"):
        run.attend(here, q[:1], k[:1], v[:1], heads=2)
    with pytest.raises(ValueError, match=r"q: 29 tokens.*6×5, 30"):
        run.attend(here, q[:, 1:], k, v, heads=2)
    with pytest.raises(ValueError, match=r"site: Layer.* is not of the table"):
        PatchStack([prompt()]).bind(table).attend(
            Site.over_text(layer_table("sd1")[0], here.call), q, k, v, heads=2
        )


def test_pictures_that_do_not_fit_the_batch(prompt, site, branches):
    with pytest.raises(ValueError, match="got 2 for 3 cond rows"):
        branches(prompt(pictures=2), site(0, batch=3))
    with pytest.raises(ValueError, match="mask: expected 1 picture, got 2 for 1 cond row"):
        branches(prompt(mask=torch.ones(2, 4, 4)), site(0, batch=1))
    with pytest.raises(ValueError, match="weight: expected 1 picture, got 2 for 1 cond row"):
        branches(prompt(torch.ones(2)), site(0, batch=1))


def test_plans_and_tensors_are_made_once(prompt, site, table):
    """A later step of the same phase finds every tensor again; a curve changes weights alone."""
    run = PatchStack([prompt(0.5, mask=torch.ones(4, 4), end=0.8)]).bind(table)
    first = branches_at(run, site(0, progress=0.1), torch.float32)
    assert branches_at(run, site(0, progress=0.1), torch.float32) is first
    assert branches_at(run, site(0, progress=0.7, sigma=1.5), torch.float32) is first
    assert branches_at(run, site(0, progress=0.9), torch.float32) is None

    curved = PatchStack([prompt(Weight(curve=[(0, 1), (1, 0)]), mask=torch.ones(4, 4))])
    run = curved.bind(table)
    one, two = [branches_at(run, site(0, progress=p), torch.float32) for p in (0.0, 0.5)]
    assert (one.weights.item(), two.weights.item()) == (1.0, 0.5)
    assert one.k[0] is two.k[0] and one.masks is two.masks


def test_keys_and_values_are_cached_per_dtype(prompt, site, table):
    half = prompt().keys_values.parts[0].layers[0][0].half()
    run = PatchStack([prompt()]).bind(table)
    found = branches_at(run, site(0), torch.float16)
    assert found.k[0].dtype == torch.float16 and torch.equal(found.k[0], half)
    assert branches_at(run, site(0, progress=0.4), torch.float16).k[0] is found.k[0]


def test_memory_stays_bounded_over_a_curve(prompt, site, table):
    """Plans, and folded keys and values, of past steps are dropped."""
    weight = Weight(curve=[(0, 1), (1, 0.5)])
    run = PatchStack([prompt(weight, scaling="K+mean(V) w/ C penalty")]).bind(table)

    def kept_after(steps):
        for step in steps:
            for layer in range(len(table)):
                branches_at(run, site(layer, progress=step / 200), torch.float32)
        gc.collect()
        kinds = Counter(map(type, gc.get_objects()))
        return kinds[Plan], kinds[torch.Tensor]

    few = kept_after(range(20))
    assert all(few)
    assert kept_after(range(20, 200)) == few


def test_inference_mode_leaves_no_trace(prompt, site, table, qkv):
    """Tensors cached under inference mode serve calls that keep gradients."""
    here = site(0)
    q, k, v = qkv(here)
    with torch.inference_mode():
        stack = PatchStack([prompt(0.5, scaling="K+V", mask=torch.rand(4, 4))])
        run = stack.bind(table)
        run.attend(here, q, k, v, heads=2)
    q.requires_grad_()
    run.attend(here, q, k, v, heads=2).sum().backward()
    assert bool(q.grad.isfinite().all()) and bool(q.grad.any())


def test_random_numbers_and_inputs_are_left_alone(prompt, site, table, qkv, tmp_path):
    here = site(0, chunks=(1, 0), batch=2)
    q, k, v = qkv(here)
    before = [t.clone() for t in (q, k, v)]
    state = torch.get_rng_state()
    stack = PatchStack([prompt(0.5, mask=torch.ones(4, 4)), prompt(1.0, shared_softmax=True)])
    stack.bind(table).attend(here, q, k, v, heads=2)
    stack.save(tmp_path / "stack.safetensors")
    PatchStack.load(tmp_path / "stack.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, (q, k, v), strict=True))


def test_threads_share_a_run(prompt, table, qkv):
    """Eight threads, each with its own steps, get what one alone gets."""
    weight = Weight(curve=[(0, 1), (1, 0)])
    stack = PatchStack([prompt(weight, scaling="K+V"), prompt(0.5, mask=torch.rand(8, 8), seed=1)])
    sites = [
        [
            Site.over_text(
                table[i % len(table)],
                Call(latent=(5, 4 + n), batch=2, chunks=(1, 0), progress=i / 20),
            )
            for i in range(20)
        ]
        for n in range(8)
    ]
    alone = [[stack.bind(table).attend(s, *qkv(s), heads=2) for s in some] for some in sites[:2]]
    shared = stack.bind(table)
    results = [[] for _ in sites]
    inputs = [[qkv(s) for s in some] for some in sites]

    def work(n):
        results[n] += [
            shared.attend(s, *given, heads=2) for s, given in zip(sites[n], inputs[n], strict=True)
        ]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, found in zip(alone, results, strict=False):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert all(len(found) == 20 for found in results)


def test_runs_copy_as_themselves_and_pickle(prompt, site, table, qkv):
    run = PatchStack([prompt(0.5)]).bind(table)
    assert copy.deepcopy(run) is run and copy.copy(run) is run
    here = site(0)
    again = pickle.loads(pickle.dumps(run))
    assert torch.equal(
        run.attend(here, *qkv(here), heads=2), again.attend(here, *qkv(here), heads=2)
    )
    assert "BoundStack of PatchStack" in repr(run)


def test_report_names_what_is_skipped_and_why(prompt, table):
    run = PatchStack([prompt({0: 1.0, 1: 0.0}), prompt(1.0, compat="comfyui_ipadapter_plus")]).bind(
        table
    )
    report = run.report()
    assert report.wanted == tuple(table)
    assert [layer.spatial for layer in report.matched] == [0, 1, 1, 3, 3, 4, 5, 6]
    assert run.layers == report.matched
    reasons = {(s.patch, s.layer.spatial): s.reason for s in report.skipped}
    assert reasons[0, 1] == "weight 0"
    assert reasons[0, 2] == "the weight gives this layer nothing"
    assert "middle" in reasons[1, 2]
    assert "8 of 9 layers patched" in str(report)
    assert report.nbytes == run.stack.nbytes


def test_the_middle_block_is_patched_but_for_quirks(prompt, site, branches):
    middle = site(8)
    assert middle.layer.block == "middle"
    assert branches(prompt(), middle) is not None
    assert branches(prompt(compat="comfyui_ipadapter_plus"), middle) is None
    assert branches(prompt(compat="fooocus", shared_softmax=True), middle) is not None


def test_fooocus_computes_weight_zero(prompt, site, branches):
    """There the image's keys take their share of the softmax at any weight: a quirk."""
    assert branches(prompt(0.0, shared_softmax=True), site(0)) is None
    found = branches(prompt(0.0, shared_softmax=True, compat="fooocus"), site(0))
    assert not found.k[0].any() and found.v[0].any()


def test_no_match_is_an_error(prompt, table):
    with pytest.raises(ValueError, match="names no layer"):
        PatchStack([prompt({})]).bind(table)
    PatchStack([prompt(0.0)]).bind(table)  # weight 0 names all of them


def test_adapters_of_other_unets_are_refused(prompt):
    with pytest.raises(
        ValueError, match=r"^adapter: .* 70 layers of this UNet \(SDXL\), got .* 9 \(custom\)"
    ):
        PatchStack([prompt()]).bind("sdxl")


class Shout(Patch):
    """A patch of another kind: a constant branch, and nothing to keep."""

    type_name = "shout_for_tests"

    def bind(self, table, index=0):
        return BoundShout(table)

    def state(self):
        return {}, {}

    @classmethod
    def from_state(cls, values, tensors):
        return cls()

    def __eq__(self, other):
        return isinstance(other, Shout)

    def __hash__(self):
        return 0


class BoundShout(BoundPatch):
    def __init__(self, table):
        self.table = table

    @property
    def skipped(self):
        return [None] * len(self.table)

    def time_key(self, call):
        return True

    def edits(self, call, time_key):
        return Edits(branches=(ShoutBranch(self.table, call.batch),))


class ShoutBranch:
    shared_softmax = False
    mask = None

    def __init__(self, table, batch):
        self.table = table
        self.rows = (0,) * batch
        self.mask_rows = (0,) * batch
        self.requires_grad = False

    def weights(self, layer):
        return (2.0,) * len(self.rows)

    def keys_values(self, layer, dtype, device):
        ones = torch.ones(1, 1, self.table[layer].channels, dtype=dtype, device=device)
        return ones, ones


def test_other_kinds_of_patches_join_the_same_pass(prompt, site, table, qkv, tmp_path):
    here = site(0, chunks=(1, 0), batch=2)
    q, k, v = qkv(here)
    mixed = PatchStack([prompt(0.5), Shout()])
    run = mixed.bind(table)
    assert len(branches_at(run, here, torch.float32).k) == 2
    alone = PatchStack([prompt(0.5)]).bind(table).attend(here, q, k, v, heads=2)
    torch.testing.assert_close(run.attend(here, q, k, v, heads=2), alone + 2.0)
    mixed.save(tmp_path / "mixed.safetensors")
    assert PatchStack.load(tmp_path / "mixed.safetensors") == mixed


def test_no_weight_below_zero_has_a_share_of_a_softmax(site, table, monkeypatch):
    here = site(0, chunks=(1, 0), batch=2)
    run = PatchStack([Shout()]).bind(table)
    monkeypatch.setattr(ShoutBranch, "weights", lambda self, layer: (0.5, -0.25))
    assert branches_at(run, here, torch.float32) is not None
    monkeypatch.setattr(ShoutBranch, "shared_softmax", True)
    run = PatchStack([Shout()]).bind(table)
    with pytest.raises(ValueError, match=r"weight: expected at least 0 .*, got -0\.25"):
        branches_at(run, here, torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_do_not_wait_for_a_gpu(prompt, site, table, qkv):
    """After the first step, which brings the keys and values over, nothing synchronises."""
    curve = Weight(curve=[(0, 1), (1, 0.5)], pictures=(0.5, 1.0))
    stack = PatchStack([prompt(curve, scaling="K+V"), prompt(0.5, mask=torch.ones(4, 4), seed=1)])
    run = stack.bind(table)
    steps = [site(3, chunks=(1, 0), batch=4, progress=step / 4) for step in range(4)]
    q, k, v = (t.cuda() for t in qkv(steps[0]))
    outputs = [run.attend(steps[0], q, k, v, heads=2)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        outputs += [run.attend(step, q, k, v, heads=2) for step in steps[1:]]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for step, out in zip(steps, outputs, strict=True):
        expected = stack.bind(table).attend(step, q.cpu(), k.cpu(), v.cpu(), heads=2)
        torch.testing.assert_close(out.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_tensors_alone_need_a_layers_name_and_what_describes_the_call(prompt, site, table, qkv):
    run = PatchStack([prompt(0.5, start=0.2), NearSightedTile(tile_size=16)]).bind(table)
    here = site(3, chunks=(1, 0), batch=2)
    q, k, v = qkv(here)
    told = {"latent": (6, 5), "progress": 0.3, "cond_or_uncond": (1, 0), "heads": 2}
    out = run.attend(table[3].name, q, k, v, **told)
    assert torch.equal(out, run.attend(here, q, k, v, heads=2))
    assert not torch.equal(out, PatchStack().bind(table).attend(here, q, k, v, heads=2))
    itself = run.attend(table[3].name, q, q, q, keys="image", **told)
    assert torch.equal(itself, run.attend(Site.over_image(here.layer, here.call), q, q, q, heads=2))
    with pytest.raises(ValueError, match=r"where: expected a site or the name of a layer, such as"):
        run.attend("middle", q, k, v, **told)
    with pytest.raises(ValueError, match="keys: expected 'text' or 'image', got 'cross'"):
        run.attend(table[3].name, q, k, v, keys="cross", **told)


def test_tokens_are_spans():
    grid = (6, 5)
    tokens = Tokens(
        (Span("text", 0, 7), Span("image", 7, 37, grid), Span("reference", 37, index=1))
    )
    assert tokens.names == ("text", "image", "reference") and tokens.grid == grid
    assert tokens.find("reference", 1).start == 37 and tokens.find("reference") is None
    with pytest.raises(ValueError, match=r"tokens: expected an image among them, got \('text',\)"):
        _ = Tokens((Span("text"),)).grid
