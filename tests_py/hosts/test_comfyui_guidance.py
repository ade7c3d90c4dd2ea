# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance through the host's own batching, beside the formulas with the whole map."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from protocol_host import CLONE_RULES, SD1, make_host, make_inputs
from sampling_host import Sampler, entry

from attnpatch import PerturbedAttentionGuidance, SelfAttentionGuidance, SmoothedEnergyGuidance
from attnpatch.hosts.comfyui import host as comfyui
from attnpatch.hosts.comfyui.guidance import GuidanceFunction, recorded_attention
from attnpatch.hosts.comfyui.optimized_attention import OptimizedAttention
from attnpatch.patches import degraded_passes, guide

MIDDLE = ("middle", 0, 0)


sdp = OptimizedAttention("none")


@pytest.fixture(autouse=True)
def small_host(monkeypatch):
    """Take the small host for ComfyUI."""
    monkeypatch.setattr(comfyui, "_program", lambda model: "comfy")


def patch(model, patches):
    return comfyui.patch_model(model, patches)


def lively_host(**options):
    """Let the middle block's self-attention count, which random weights leave flat."""
    host = make_host(SD1, **options)
    for name, parameter in host.model.diffusion_model.named_parameters():
        if name.startswith("middle_block.1") and parameter.dim() == 2:
            parameter.mul_(5.0)
    return host


@pytest.fixture(scope="module")
def host():
    return lively_host()


def inputs(batch=1, size=(24, 16), seed=0, areas=None, **more):
    """The noisy latent, and (cond, uncond)."""
    x, contexts = make_inputs(SD1, batch=batch, size=size, seed=seed)
    cond = [entry(contexts[0], "c", **more)]
    uncond = [entry(contexts[1], "u", **more)]
    if areas:
        uncond = [entry(contexts[1] * (1 + i), f"u{i}", area=area) for i, area in enumerate(areas)]
    return 2.2 * x, (cond, uncond)


def with_slot(model, slot, **options):
    """Return the options of a model with one function in the middle block's self-attention."""
    transformer = {"patches_replace": {"attn1": {MIDDLE: slot}}}
    return {"transformer_options": transformer, **options}


def blur(x0, mask, sigma):
    taps = torch.exp(-0.5 * (torch.linspace(-4, 4, 9) / sigma) ** 2)
    kernel = (torch.outer(taps, taps) / taps.sum() ** 2).expand(4, 1, 9, 9)
    blurred = F.conv2d(F.pad(x0, (4,) * 4, mode="reflect"), kernel, groups=4)
    return torch.where(mask[:, None], blurred, x0)


class Reference:
    """The formulas, with the whole attention map."""

    def __init__(self, sampler, model, x, conds, level=2.0):
        self.sampler, self.model, self.x, self.conds = sampler, model.model, x, conds
        self.sigma = torch.full((len(x),), level)
        self.maps = {}
        found = sampler.calc_cond_batch(
            self.model, list(conds), x, self.sigma, with_slot(model, self._record)
        )
        self.cond, self.uncond = found

    def _record(self, q, k, v, options):
        heads, kinds = options["n_heads"], options["cond_or_uncond"]
        split = [t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v)]
        scores = (split[0] @ split[1].mT / split[0].shape[-1] ** 0.5).softmax(-1)
        for kind, uuid, part in zip(
            kinds, options["uuids"], scores.mean(1).sum(1).chunk(len(kinds)), strict=True
        ):
            if kind == 1:
                self.maps[uuid] = part.clone(), options["original_shape"][-2:]
        return (scores @ split[2]).transpose(1, 2).flatten(2)

    def cfg(self, scale=3.0):
        return self.uncond + scale * (self.cond - self.uncond)

    def mask(self):
        total, count = torch.zeros(2, len(self.x), *self.x.shape[-2:])
        for one in self.conds[1]:
            means, (height, width) = self.maps[one["uuid"]]
            area = one.get("area", (height, width, 0, 0))
            maps = means.view(-1, 1, -(-height // 8), -(-width // 8))
            maps = F.interpolate(maps, (height, width))[:, 0]
            place = (slice(None), slice(area[2], area[2] + height), slice(area[3], area[3] + width))
            total[place] += maps
            count[place] += 1
        return total / count.clamp(min=1) > 1.0

    def run(self, conds, x, slot=None):
        slot = slot or (lambda q, k, v, options: sdp(q, k, v, options))
        options = with_slot(self.model, slot)
        return self.sampler.calc_cond_batch(self.model, conds, x, self.sigma, options)[-1]

    def sag(self, scale, sigma):
        degraded = blur(self.uncond, self.mask(), sigma)
        again = self.run([None, self.conds[1]], self.x + degraded - self.uncond)
        return scale * (degraded - again)

    def pag(self, scale):
        return scale * (self.cond - self.run([self.conds[0]], self.x, lambda q, k, v, o: v))

    def seg(self, scale):
        def slot(q, k, v, options):
            return sdp(q.mean(1, keepdim=True).expand_as(q), k, v, options)

        return scale * (self.cond - self.run([self.conds[0]], self.x, slot))


def close(found, expected, plain):
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    assert (found - plain).abs().max() > 1e-2, "guidance does nothing"


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("chunks", "first"), [(8, 1), (8, 0), (1, 1), (1, 0)])
def test_self_attention_guidance(monkeypatch, host, chunks, first, batch):
    sampler = Sampler(monkeypatch, chunks, first)
    x, conds = inputs(batch)
    reference = Reference(sampler, host, x, conds)
    expected = reference.cfg() + reference.sag(0.8, 1.5)
    model = patch(host, [SelfAttentionGuidance(0.8, blur_sigma=1.5)])
    assert recorded_attention(model) is recorded_attention(host) is None
    found = sampler.step(model.clone(), x, conds)
    assert sampler.calls[-1] == [1]
    maps = F.interpolate(recorded_attention(model)[:, None], (24, 16))[:, 0]
    assert torch.equal(maps > 1, reference.mask())
    close(found, expected, reference.cfg())


AREAS = [
    [(24, 9, 0, 0), (24, 9, 0, 7)],
    [(16, 16, 0, 0), (24, 8, 0, 8)],
    [(16, 8, 8, 6)],
    [(24, 16, 0, 0), (24, 16, 0, 0)],
]


@pytest.mark.parametrize("areas", AREAS)
@pytest.mark.parametrize("chunks", [1, 8])
def test_uncond_of_several_areas(monkeypatch, host, areas, chunks):
    sampler = Sampler(monkeypatch, chunks)
    x, conds = inputs(2, areas=areas)
    reference = Reference(sampler, host, x, conds)
    expected = reference.cfg() + reference.sag(1.0, 2.0)
    found = sampler.step(patch(host, [SelfAttentionGuidance(1.0)]), x, conds)
    close(found, expected, reference.cfg())


STACKS = [
    ([PerturbedAttentionGuidance(20.0)], [[0]]),
    ([SmoothedEnergyGuidance(30.0)], [[0]]),
    ([SelfAttentionGuidance(), PerturbedAttentionGuidance(20.0)], [[1], [0]]),
    ([SmoothedEnergyGuidance(20.0), PerturbedAttentionGuidance(20.0)], [[2, 0]]),
    (
        [PerturbedAttentionGuidance(20.0), SelfAttentionGuidance(), SmoothedEnergyGuidance(20.0)],
        [[2, 0], [1]],
    ),
]


@pytest.mark.parametrize(("stack", "calls"), STACKS)
@pytest.mark.parametrize("batch", [1, 2])
def test_degraded_passes_of_one_input_are_one_call(monkeypatch, host, stack, calls, batch):
    sampler = Sampler(monkeypatch)
    x, conds = inputs(batch)
    reference = Reference(sampler, host, x, conds)
    terms = {
        SelfAttentionGuidance: lambda g: reference.sag(g.scale, g.blur_sigma),
        PerturbedAttentionGuidance: lambda g: reference.pag(g.scale),
        SmoothedEnergyGuidance: lambda g: reference.seg(g.scale),
    }
    expected = reference.cfg() + sum(terms[type(guidance)](guidance) for guidance in stack)
    sampler.calls.clear()
    found = sampler.step(patch(host, stack), x, conds)
    assert sampler.calls == [[1, 0], *calls]
    close(found, expected, reference.cfg())


def test_controls_see_the_input_of_their_pass(monkeypatch, host):
    """They read it before the model does."""
    sampler = Sampler(monkeypatch)
    x, conds = inputs(control=object())
    reference = Reference(sampler, host, x, conds)
    expected = reference.cfg() + reference.sag(0.5, 2.0) + reference.pag(20.0)
    degraded = sampler.controlled[-2]
    assert not torch.equal(degraded, x)
    sampler.calls.clear(), sampler.controlled.clear()
    stack = [SelfAttentionGuidance(), PerturbedAttentionGuidance(20.0)]
    found = sampler.step(patch(host, stack), x, conds)
    assert sampler.calls == [[1, 0], [1], [0]]
    torch.testing.assert_close(sampler.controlled[1], degraded)
    assert torch.equal(sampler.controlled[2], x)
    close(found, expected, reference.cfg())


def test_areas_and_inputs_of_their_own(monkeypatch, host):
    sampler = Sampler(monkeypatch)
    x, conds = inputs(areas=AREAS[1])
    reference = Reference(sampler, host, x, conds)
    expected = reference.cfg() + reference.sag(0.5, 2.0) + reference.pag(20.0)
    stack = [SelfAttentionGuidance(), PerturbedAttentionGuidance(20.0)]
    found = sampler.step(patch(host, stack), x, conds)
    close(found, expected, reference.cfg())


def test_other_patches_see_the_kind_of_each_chunk(monkeypatch, host):
    """A wrapper of the model's function, and another patch: no pass beside another latent's."""
    seen, wrapped = [], []

    def slot(q, k, v, options):
        seen.append(options["cond_or_uncond"])
        return sdp(q, k, v, options)

    def wrapper(function, args):
        wrapped.append(args["cond_or_uncond"])
        return function(args["input"], args["timestep"], **args["c"])

    model = lively_host()
    options = model.model_options
    options["transformer_options"]["patches_replace"] = {"attn2": {MIDDLE: slot}}
    options["model_function_wrapper"] = wrapper
    before = copy.copy(options)
    x, conds = inputs()
    stack = [PerturbedAttentionGuidance(), SelfAttentionGuidance(), SmoothedEnergyGuidance()]
    patched = patch(model, stack)
    Sampler(monkeypatch).step(patched, x, conds)
    assert seen == wrapped == [[1, 0], [0, 0], [1]]
    assert options == before
    assert patched.model_options["model_function_wrapper"] is wrapper


def test_no_uncond(monkeypatch, host, caplog):
    sampler = Sampler(monkeypatch)
    x, (cond, _) = inputs()
    stack = [SelfAttentionGuidance(), PerturbedAttentionGuidance()]
    model = patch(host, stack)
    found = [sampler.step(model, x, (cond, None)) for _ in range(2)]
    assert [r.message for r in caplog.records] == [
        "SelfAttentionGuidance: off, for there is no uncond prediction"
    ]
    expected = sampler.step(patch(host, stack[1:]), x, (cond, None))
    assert torch.equal(found[0], expected) and torch.equal(found[1], expected)


def test_guidance_scale_of_one(monkeypatch, host):
    sampler = Sampler(monkeypatch)
    x, conds = inputs()
    reference = Reference(sampler, host, x, conds)
    found = sampler.step(patch(host, [SelfAttentionGuidance(0.8)]), x, conds, scale=1.0)
    close(found, reference.cond + reference.sag(0.8, 2.0), reference.cond)
    sampler.calls.clear()
    sampler.step(patch(host, [PerturbedAttentionGuidance()]), x, conds, scale=1.0)
    assert sampler.calls == [[0], [0]], "the host needs no uncond for it"


def test_scales_of_pictures_and_of_late_steps(monkeypatch, host):
    sampler = Sampler(monkeypatch)
    x, conds = inputs(2)
    plain = sampler.step(host, x, conds)
    for kind in (SelfAttentionGuidance, PerturbedAttentionGuidance):
        some = patch(host, [kind(torch.tensor([0.0, 2.0]))])
        both = sampler.step(patch(host, [kind(2.0)]), x, conds)
        expected = torch.stack([plain[0], both[1]])
        torch.testing.assert_close(sampler.step(some, x, conds), expected)
        assert not torch.equal(both[0], plain[0])
    adaptive = patch(host, [PerturbedAttentionGuidance(20.0, adaptive_scale=0.2)])
    for level, calls in ((8.0, 2), (0.5, 1)):
        sampler.calls.clear()
        sampler.step(adaptive, x, conds, level=level)
        assert len(sampler.calls) == calls


def test_saliency_decides_between_two_guidances(monkeypatch, host):
    sampler = Sampler(monkeypatch)
    x, conds = inputs(2)
    reference = Reference(sampler, host, x, conds)
    guidance = PerturbedAttentionGuidance(20.0, rescale_mode="snf")
    for scale in (3.0, 1.0):  # the host gives uncond for it, even at 1
        found = sampler.step(patch(host, [guidance]), x, conds, scale=scale)
        parts = reference.cfg(scale), reference.cond, reference.uncond
        passes = degraded_passes([guidance], (24, 16), None)
        expected = guide(*parts, passes, [reference.pag(1.0)], [torch.zeros(())])
        close(found, parts[0] + expected, parts[0])


def test_nothing_to_guide(monkeypatch, host):
    sampler = Sampler(monkeypatch)
    x, conds = inputs(size=(4, 32))
    stack = [SelfAttentionGuidance(), PerturbedAttentionGuidance(start=0.9)]
    expected = sampler.step(host, x, conds)
    assert torch.equal(sampler.step(patch(host, stack), x, conds), expected)
    late = patch(host, [SelfAttentionGuidance(), PerturbedAttentionGuidance()])
    sampler.calls.clear()
    assert sampler.step(late, x, conds, level=0.0).isfinite().all()
    assert len(sampler.calls) == 1


def test_a_slot_that_was_taken_is_told(monkeypatch, host, caplog):
    model = patch(host, [SelfAttentionGuidance()])
    model.model_options["transformer_options"]["patches_replace"]["attn1"][MIDDLE] = sdp
    x, conds = inputs()
    sampler = Sampler(monkeypatch)
    found = sampler.step(model, x, conds)
    torch.testing.assert_close(found, sampler.step(host, x, conds))
    assert "another patch took the place of ours" in caplog.text


@pytest.mark.parametrize("rule", CLONE_RULES)
def test_patching_again_replaces_the_function(monkeypatch, rule):
    def other(args):
        return args["denoised"] * 1.0

    model = lively_host(clone_rule=rule)
    model.model_options["sampler_post_cfg_function"] = [other]
    first = patch(model, [SelfAttentionGuidance(0.4)])
    first.model_options["sampler_post_cfg_function"].append(other)
    second = patch(first.clone(), [PerturbedAttentionGuidance(20.0)])
    functions = [m.model_options["sampler_post_cfg_function"] for m in (model, first, second)]
    kinds = [[isinstance(f, GuidanceFunction) for f in found] for found in functions]
    assert kinds == [[False], [False, True, False], [False, True, False]]
    sampler = Sampler(monkeypatch)
    x, conds = inputs()
    both = patch(model, [SelfAttentionGuidance(0.4), PerturbedAttentionGuidance(20.0)])
    expected = sampler.step(both, x, conds)
    for _ in range(2):  # and nothing adds up
        torch.testing.assert_close(sampler.step(second, x, conds), expected)
    assert not sampler.step(first, x, conds).equal(expected)


def test_two_threads_and_two_models(monkeypatch, host):
    sampler = Sampler(monkeypatch, chunks=1)
    models = [patch(host, [SelfAttentionGuidance(s)]) for s in (0.5, 2.0)]
    jobs = [(models[i % 2], *inputs(seed=i)) for i in range(4)]
    expected = [sampler.step(*job) for job in jobs]
    found = [[] for _ in jobs]

    def work(i):
        for _ in range(2):
            found[i].append(sampler.step(*jobs[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, wanted in zip(found, expected, strict=True):
        assert len(results) == 2
        for result in results:
            torch.testing.assert_close(result, wanted)


def test_passes_have_identities_of_their_own(monkeypatch, host):
    """Caches keep what each conditioning gave, by its identity."""
    seen = []

    def spy(function, args):
        seen.append(args["c"]["transformer_options"]["uuids"])
        return function(args["input"], args["timestep"], **args["c"])

    sampler = Sampler(monkeypatch)
    x, conds = inputs(1)
    stack = [PerturbedAttentionGuidance(3.0), SelfAttentionGuidance(0.8)]
    model = patch(host, stack)
    model.model_options["model_function_wrapper"] = spy
    for level in (3.0, 2.0):
        sampler.step(model, x, conds, level)
    ordinary, degraded = seen[0], [one for call in seen[1 : len(seen) // 2] for one in call]
    assert len({*ordinary, *degraded}) == len(ordinary) + len(degraded) == 4
    assert seen[len(seen) // 2 :] == seen[: len(seen) // 2]
