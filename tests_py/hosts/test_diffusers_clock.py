# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Timestep, sigma and progress of a call."""

import math
from unittest import mock

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnpatch.hosts.diffusers.schedule import Schedule, TimestepReader

# diffusers' schedulers hand tensors to numpy in a way that numpy 2 dislikes.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("EulerDiscreteScheduler", {}),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
        ("HeunDiscreteScheduler", {}),
    ],
)
def test_sigma_is_the_schedulers(name, options):
    scheduler = getattr(diffusers, name)(**SD, **options)
    scheduler.set_timesteps(7)
    schedule = Schedule(scheduler)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        assert schedule(float(timestep)).sigma == pytest.approx(float(sigma), rel=1e-3)


def test_without_a_scheduler_it_is_stable_diffusions():
    known = Schedule(diffusers.DDIMScheduler(**SD))
    for timestep in (0.0, 1.0, 250.5, 999.0):
        assert list(Schedule()(timestep)) == pytest.approx(list(known(timestep)), rel=1e-4)


@given(st.floats(0, 999), st.floats(0, 999))
def test_progress_is_that_of_percents(earlier, later):
    """Percent p stands for timestep (1 - p) * 999, and sigma falls as progress grows."""
    earlier, later = max(earlier, later), min(earlier, later)
    first, second = _SCHEDULE(earlier), _SCHEDULE(later)
    assert (1 - first.progress) * 999 == pytest.approx(earlier, abs=1e-9)
    assert first.progress <= second.progress
    assert first.sigma >= second.sigma


_SCHEDULE = Schedule()


def test_progress_stays_within_its_range():
    assert _SCHEDULE(1000.0).progress == 0.0  # some schedulers begin past the last step
    assert _SCHEDULE(999.0).progress == 0.0
    assert _SCHEDULE(0.0).progress == 1.0


def test_zero_terminal_signal_has_a_finite_sigma():
    scheduler = diffusers.DDIMScheduler(**SD, rescale_betas_zero_snr=True)
    assert math.isfinite(Schedule(scheduler)(999.0).sigma)


def test_edm_and_flow_matching():
    edm = diffusers.EDMEulerScheduler()
    edm.set_timesteps(5)
    moments = [Schedule(edm)(float(t)) for t in edm.timesteps]
    for moment, sigma in zip(moments, edm.sigmas, strict=False):
        assert moment.sigma == pytest.approx(float(sigma), rel=1e-4)
    assert moments[0].progress == pytest.approx(0.0, abs=1e-6)
    assert moments[-1].progress == pytest.approx(1.0, abs=1e-6)

    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    flow.set_timesteps(5)
    for timestep, sigma in zip(flow.timesteps, flow.sigmas, strict=False):
        assert Schedule(flow)(float(timestep)).sigma == pytest.approx(float(sigma), rel=1e-5)


@pytest.mark.parametrize(
    "timestep", [981, 981.0, torch.tensor(981), torch.tensor([981]), torch.tensor(981.0).expand(4)]
)
def test_every_form_of_a_timestep(timestep):
    assert TimestepReader()(timestep) == (981.0,)


def test_rows_may_have_timesteps_of_their_own():
    read = TimestepReader()
    several = torch.tensor([7.0, 5.0, 7.0])
    assert read(several) == (7.0, 5.0, 7.0)
    assert read.read_by_offset(several[::2]) == [7.0, 7.0]
    assert read.read_by_offset(several[1].expand(3)) == [5.0] * 3


def test_a_tensor_of_timesteps_is_copied_to_the_host_once():
    """What a GPU's timesteps go through, on the CPU."""
    read = TimestepReader()
    timesteps = torch.arange(1000, 0, -20)
    with mock.patch.object(torch.Tensor, "tolist", lambda tensor: copy(tensor)):
        copy = mock.Mock(side_effect=lambda tensor: tensor.numpy().tolist())
        assert [read.read_by_offset(t)[0] for t in timesteps] == timesteps.numpy().tolist()
        assert copy.call_count == 1
        later = timesteps[30:]  # image-to-image begins in the middle, of the same storage
        assert [read.read_by_offset(t)[0] for t in later] == later.numpy().tolist()
        assert copy.call_count == 1
        timesteps += 1  # a new run may write into the old tensor
        assert read.read_by_offset(timesteps[3]) == [941.0]
        assert copy.call_count == 2
        assert read.read_by_offset(torch.tensor([7.5, 3.5])[1]) == [3.5]
        with torch.inference_mode():
            assert read.read_by_offset(torch.tensor([7.5, 3.5])[0]) == [7.5]
        assert copy.call_count == 4


@pytest.mark.parametrize("made", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("written", [torch.inference_mode, torch.no_grad])
def test_one_timestep_that_is_written_anew_for_each_step(made, written):
    """As users of recorded graphs have it; tensors of inference mode do not tell of writes."""
    read = TimestepReader()
    with made():
        buffer = torch.tensor(0.0)
    if buffer.is_inference():
        written = torch.inference_mode  # elsewhere nobody may write into it
    with written():
        for now in (901.0, 601.0, 301.0):
            assert read.read_by_offset(buffer.fill_(now)) == [now]
            assert read.read_by_offset(buffer.expand(2)) == [now, now]
