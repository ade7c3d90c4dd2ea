# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pipelines with transformers: which calls and rows are cond, and where sampling stands."""

import pytest
import torch
from transformer_pipelines import (
    SIZE,
    STEPS,
    chroma,
    flux,
    klein,
    krea2,
    qwen,
    sd3,
    z_image,
)

import attnpatch as ap
from attnpatch.hosts.diffusers.patched_model import PatchedModel
from attnpatch.patches import KeyGain, TextKeys

pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Passing .image. as torch tensor:FutureWarning"),
]
COND, UNCOND = 0, 1


APART, TOGETHER, LAST = "apart", "together", "last"
PIPELINES = {
    "flux": (flux, APART),
    "chroma": (chroma, APART),
    "klein": (klein, APART),
    "qwen": (qwen, APART),
    "krea2": (krea2, APART),
    "sd3": (sd3, TOGETHER),
    "z_image": (z_image, LAST),
}


@pytest.fixture
def calls(monkeypatch):
    """The kinds of rows, and the progress, of each call of a transformer."""
    seen = []
    original = PatchedModel.begin_call

    def begin(self, model, args, kwargs):
        original(self, model, args, kwargs)
        call = self.running.call
        seen.append((call.roles, call.progress))

    monkeypatch.setattr(PatchedModel, "begin_call", begin)
    return seen


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", PIPELINES)
def test_rows_and_times(name, guided, batch, calls):
    make_pipeline, layout = PIPELINES[name]
    pipeline, arguments = make_pipeline(batch, guided)
    with ap.attach(pipeline, KeyGain(TextKeys((0,)), 3.0, end=0.9)):
        pipeline(**arguments, **SIZE, generator=torch.Generator().manual_seed(0))
    cond, uncond = (COND,) * batch, (UNCOND,) * batch
    step = [cond, uncond]
    if not guided:
        step = [cond]
    elif layout == TOGETHER:
        step = [uncond + cond]
    elif layout == LAST:
        step = [cond + uncond]
    assert [kinds for kinds, _ in calls] == step * STEPS
    progress = [at for _, at in calls][:: len(step)]
    assert progress == sorted(progress) and progress[0] == pytest.approx(0.0, abs=0.01)
    assert 0.4 < progress[-1] < 1


@pytest.mark.parametrize("name", PIPELINES)
def test_uncond_is_left_alone_and_cond_is_not(name, calls):
    """What a pipeline does with a gain is what it does where the user tells the rows."""
    make_pipeline, _ = PIPELINES[name]
    pipeline, arguments = make_pipeline(1, True)

    def picture():
        out = pipeline(**arguments, **SIZE, generator=torch.Generator().manual_seed(0))
        return out.images

    plain = picture()
    patch = KeyGain(TextKeys((0, 2)), 6.0)
    with ap.attach(pipeline, patch):
        found = picture()
    seen = iter([kinds for kinds, _ in calls])
    calls.clear()
    with ap.attach(pipeline, patch, cond_or_uncond=lambda call: next(seen)):
        assert torch.equal(picture(), found)
    assert not torch.allclose(found, plain, atol=1e-4)
    with ap.attach(pipeline, KeyGain(TextKeys((0, 2)), 6.0, uncond=True)):
        both = picture()
    assert not torch.allclose(both, found, atol=1e-5)
    twin = ap.patch_model(pipeline, patch)
    assert torch.equal(
        twin(**arguments, **SIZE, generator=torch.Generator().manual_seed(0)).images, found
    )
    assert torch.equal(picture(), plain)


@pytest.mark.parametrize("name", ["flux", "chroma", "z_image"])
def test_one_object_as_both_texts_is_not_guessed(name):
    """Cond and uncond calls with the same tensor look alike: the gain would be in both."""
    make_pipeline, _ = PIPELINES[name]
    pipeline, arguments = make_pipeline(1, True)
    arguments["negative_prompt_embeds"] = arguments["prompt_embeds"]
    patch = KeyGain(TextKeys((0,)), 6.0)
    with ap.attach(pipeline, patch), pytest.raises(ValueError, match=r"copy of it, tensor\.clone"):
        pipeline(**arguments, **SIZE)
    text = arguments["prompt_embeds"]
    copied = [one.clone() for one in text] if isinstance(text, list) else text.clone()
    with ap.attach(pipeline, patch):  # as the error says
        pipeline(**{**arguments, "negative_prompt_embeds": copied}, **SIZE)
    with ap.attach(pipeline, KeyGain(TextKeys((0,)), 6.0, uncond=True)):  # it tells none apart
        pipeline(**arguments, **SIZE)


def test_one_object_as_both_texts_without_guidance_is_cond():
    pipeline, arguments = flux(1, True)
    arguments |= {"negative_prompt_embeds": arguments["prompt_embeds"], "true_cfg_scale": 1.0}

    def picture():
        return pipeline(**arguments, **SIZE, generator=torch.Generator().manual_seed(0)).images

    plain = picture()
    with ap.attach(pipeline, KeyGain(TextKeys((0, 2)), 6.0)):
        assert not torch.allclose(picture(), plain, atol=1e-4)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", ["klein", "qwen", "krea2", "z_image"])
def test_several_images_of_each_prompt(name, guided):
    """What there is for each prompt is for all of its images, as in UNets."""
    pipeline, arguments = PIPELINES[name][0](2, guided)
    text = arguments["prompt_embeds"][0]
    masks = torch.stack([torch.eye(5, 3), torch.ones(5, 3)])
    negative = torch.randn(2, *text.shape, generator=torch.Generator().manual_seed(3))

    def pictures(each):
        def of_all(x):
            return x.repeat_interleave(each, 0)

        weight = ap.Weight(samples=of_all(torch.tensor([1.0, 0.4])))
        patches = [
            KeyGain(TextKeys((1,)), 6.0, mask=of_all(masks), weight=weight),
            ap.NormalizedAttentionGuidance(of_all(negative), scale=4.0),
        ]
        with ap.attach(pipeline, patches):
            generator = torch.Generator().manual_seed(0)
            return pipeline(
                **arguments, **SIZE, num_images_per_prompt=2, generator=generator
            ).images

    found = pictures(1)
    assert len(found) == 4
    torch.testing.assert_close(found, pictures(2), rtol=1e-6, atol=1e-6)
