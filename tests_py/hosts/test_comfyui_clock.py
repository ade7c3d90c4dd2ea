# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Windows by progress come to the same as windows by sigma, whatever schedule the host has."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from comfyui_oracle import make_prompt
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from protocol_sampling import DiscreteSampling, make_comfy, make_conds, sample

import attnpatch as ap
from attnpatch._core import Window
from attnpatch.hosts.comfyui.options import SAMPLING
from attnpatch.hosts.comfyui.schedule import Schedule, SigmaSchedule


class FlowSampling:
    """Sigma from 1 to 0, shifted towards noise."""

    def timestep(self, sigma):
        return sigma * 1000

    def percent_to_sigma(self, percent):
        left = 1.0 - min(max(percent, 0.0), 1.0)
        return 3.0 * left / (1.0 + 2.0 * left)


class ContinuousSampling:
    """Evenly on a logarithmic scale, with timesteps that count no steps."""

    def timestep(self, sigma):
        return 0.25 * sigma.log()

    def percent_to_sigma(self, percent):
        if percent <= 0:
            return 999999999.9
        if percent >= 1:
            return 0.0
        return math.exp(math.log(0.002) * percent + math.log(120.0) * (1 - percent))


SAMPLINGS = [DiscreteSampling(), FlowSampling(), ContinuousSampling()]
PERCENTS = st.integers(0, 10_000).map(lambda n: n / 10_000)


def active(sampling, start, end, sigma):
    return sampling.percent_to_sigma(end) <= sigma <= sampling.percent_to_sigma(start)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda s: type(s).__name__)
@settings(max_examples=60, deadline=None)
@given(window=st.tuples(PERCENTS, PERCENTS), now=PERCENTS, nudge=st.sampled_from([-1, 0, 1]))
def test_progress_lies_in_a_window_where_sigma_does(sampling, window, now, nudge):
    start, end = sorted(window)
    assume(start < end)
    schedule = Schedule(sampling, [start, end])
    window = Window(start, end, False)
    sigmas = [sampling.percent_to_sigma(percent) for percent in (start, end, now)]
    for sigma in sigmas:
        if nudge:
            sigma = float(torch.tensor(sigma).nextafter(torch.tensor(math.inf * nudge)))
        if not 0 < sigma <= min(sampling.percent_to_sigma(0), 1e6):
            continue  # no sampler comes there
        assert (schedule(sigma).progress in window) == active(sampling, start, end, sigma)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda s: type(s).__name__)
def test_progress_is_the_percent_of_a_sigma(sampling):
    schedule = Schedule(sampling)
    for percent in torch.linspace(0.01, 0.99, 50).tolist():
        moment = schedule(sampling.percent_to_sigma(percent))
        assert moment.progress == pytest.approx(percent, abs=2e-5)
        assert moment.timestep == pytest.approx(
            float(sampling.timestep(torch.tensor([moment.sigma]))), rel=1e-6
        )


def test_the_first_and_the_last_step():
    sampling = DiscreteSampling()
    schedule = Schedule(sampling, [0.0, 1.0])
    first, last = sampling.sigma(999.0), sampling.sigma(0.0)
    assert 0 < schedule(first).progress < 1e-6
    assert 1 - 1e-6 < schedule(last).progress < 1
    assert schedule(last / 2).progress < 1
    assert schedule(0.0).progress == 1


class Sigmas:
    """A model whose schedule can be exchanged, and what its clock asks for."""

    def __init__(self):
        self.model_sampling = DiscreteSampling()


def test_a_schedule_that_another_node_sets_later_counts():
    model = Sigmas()
    clock = SigmaSchedule(model, [0.5])
    at = {"sigmas": torch.tensor([0.7, 0.7])}
    before = clock(at)[0].progress
    model.model_sampling = FlowSampling()
    assert clock(at)[0].progress == pytest.approx(0.5625)
    assert abs(clock(at)[0].progress - before) > 0.1


def test_a_call_tells_of_the_model_that_it_is_of():
    """A clone may have a model of its own, with other sigmas."""
    clock = SigmaSchedule(Sigmas(), [0.5])
    at = {"sigmas": torch.tensor([0.7])}
    before = clock(at)[0].progress
    own = {**at, SAMPLING: FlowSampling()}
    for _ in range(2):
        assert clock(own)[0].progress == pytest.approx(0.5625)
        assert clock(at)[0].progress == before != clock(own)[0].progress


def test_sigmas_that_change_in_place_are_seen():
    clock = SigmaSchedule(Sigmas())
    sigmas = torch.tensor([2.0])
    assert clock({"sigmas": sigmas})[0].sigma == 2.0
    sigmas.mul_(2)
    assert clock({"sigmas": sigmas})[0].sigma == 4.0


def test_pictures_may_be_at_sigmas_of_their_own():
    clock = SigmaSchedule(Sigmas())
    found = clock({"sigmas": torch.tensor([2.0, 4.0])})
    assert [point.sigma for point in found] == [2.0, 4.0]
    assert found == tuple(clock({"sigmas": torch.tensor([s])})[0] for s in (2.0, 4.0))


def test_a_moment_is_worked_out_once():
    asked = []

    class Counted(DiscreteSampling):
        def timestep(self, sigma):
            asked.append(sigma)
            return super().timestep(sigma)

    model = SimpleNamespace(model_sampling=Counted())
    clock = SigmaSchedule(model)
    for _ in range(5):
        (moment,) = clock({"sigmas": torch.full((2,), 3.0)})
    assert len(asked) == 1 and moment.sigma == 3.0


def test_hosts_that_tell_less():
    assert SigmaSchedule(Sigmas())({})[0].progress is None
    old = SimpleNamespace(timestep=lambda sigma: sigma * 100)
    (moment,) = SigmaSchedule(SimpleNamespace(model_sampling=old))(
        {"sigmas": torch.tensor([4.995])}
    )
    assert moment.progress == pytest.approx(0.5)
    forge = SimpleNamespace(predictor=DiscreteSampling())
    assert SigmaSchedule(forge)({"sigmas": 1.0})[0].sigma == 1.0


def test_modules_are_asked_on_the_cpu_and_stay_as_they_are():
    class Module(torch.nn.Module, DiscreteSampling):
        def __init__(self):
            torch.nn.Module.__init__(self)
            sampling = DiscreteSampling()
            self.register_buffer("log_sigmas", sampling.log_sigmas)

    module = Module()
    schedule = Schedule(module)
    assert schedule._sampling is not module
    assert schedule(3.0) == Schedule(DiscreteSampling())(3.0)


NO_WINDOW = {
    "a prompt": lambda: make_prompt(weight=0.5),
    "a prompt in a window": lambda: make_prompt(weight=0.5, end=0.4),
    "a prompt with a curve": lambda: make_prompt(
        weight=ap.Weight(0.5, curve=[(0.0, 1.0), (1.0, 0.0)])
    ),
    "guidance": lambda: ap.PerturbedAttentionGuidance(),
}


@pytest.mark.parametrize("patch", NO_WINDOW)
def test_time_is_found_out_only_where_a_patch_asks_for_it(patch, monkeypatch):
    """On a GPU reading a sigma waits for the device."""
    model = ap.patch_model(make_comfy(), NO_WINDOW[patch]())
    model.model_options.pop("sampler_post_cfg_function", None)  # it asks once a step
    asked = []
    monkeypatch.setattr(
        SigmaSchedule, "_sigmas", lambda self, sigmas: asked.append(1) or (float(sigmas[0]),)
    )
    x, conds = make_conds()
    sample(model, x, conds, steps=2)
    assert bool(asked) == (patch in ("a prompt in a window", "a prompt with a curve"))
