# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Code of users between pipeline and UNet: its rows are told rightly, or it is told of an error."""

import copy
import types
from concurrent.futures import ThreadPoolExecutor

import diffusers
import pytest
import torch
from pipeline_zoo import arguments, make_image_prompt, make_pipeline
from row_oracle import Watch

from attnpatch import PerturbedAttentionGuidance
from attnpatch.engine import COND, UNCOND
from attnpatch.hosts import attach, patch_model

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # diffusers' own
]

PLAIN = "StableDiffusionPipeline"
REFUSED = pytest.raises(ValueError, match="cond_or_uncond: expected to be told")


def pipeline_of(kind):
    return kind(**make_pipeline(PLAIN).components, requires_safety_checker=False)


def watched(pipeline, run=None, patches=(), **options):
    """Run a pipeline with an image prompt; return its calls, checked by their texts."""
    pipeline.set_progress_bar_config(disable=True)
    stack = [make_image_prompt(pipeline.unet), *patches]
    inputs = {**arguments(make_pipeline(PLAIN)), **options}
    with (
        attach(pipeline, stack),
        Watch(pipeline.unet, inputs["negative_prompt_embeds"]) as seen,
    ):
        (run or pipeline)(**inputs)
    return seen.calls


def noisy(rows):
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(rows, 1, 1, 1)


class Inherits(diffusers.StableDiffusionPipeline):
    """Changes nothing that matters for rows."""


class Wraps(diffusers.StableDiffusionPipeline):
    def __call__(self, *args, **kwargs):
        latents = torch.zeros(7, 4, 8, 8)  # not those of the pipeline
        result = super().__call__(*args, **kwargs)
        return result, latents


class Reversed(diffusers.StableDiffusionPipeline):
    """Lays rows out as [cond, uncond]."""

    do_classifier_free_guidance = True

    @torch.no_grad()
    def __call__(self, prompt_embeds, negative_prompt_embeds, **_):
        latents = noisy(1)
        text = torch.cat([prompt_embeds, negative_prompt_embeds])
        self.unet(torch.cat([latents] * 2), 500, encoder_hidden_states=text)


class Concealed(diffusers.StableDiffusionPipeline):
    """As that, but no variable tells which text is which."""

    do_classifier_free_guidance = True

    @torch.no_grad()
    def __call__(self, prompt_embeds, **kwargs):
        latents = noisy(1)
        text = torch.cat([prompt_embeds, kwargs.pop("negative_prompt_embeds")])
        self.unet(torch.cat([latents] * 2), 500, encoder_hidden_states=text)


class Splits(diffusers.StableDiffusionPipeline):
    """Runs cond and uncond in calls of their own."""

    @torch.no_grad()
    def __call__(self, prompt_embeds, negative_prompt_embeds, **_):
        latents = noisy(1)
        for text in (prompt_embeds, negative_prompt_embeds):
            self.unet(latents, 500, encoder_hidden_states=text)


def test_a_class_that_inherits_is_its_parent():
    for kind in (Inherits, Wraps):
        calls = watched(pipeline_of(kind), patches=[PerturbedAttentionGuidance(1.0)])
        assert [call.roles for call in calls] == [(UNCOND, COND), (COND,)] * 2


def test_rows_in_another_order():
    (call,) = watched(pipeline_of(Reversed))
    assert call.roles == (COND, UNCOND)
    with REFUSED:
        watched(pipeline_of(Concealed))


def test_calls_of_one_kind():
    calls = watched(pipeline_of(Splits))
    assert [call.roles for call in calls] == [(COND,), (UNCOND,)]
    with pytest.raises(ValueError, match="expected cond and uncond in one call"):
        watched(pipeline_of(Splits), patches=[PerturbedAttentionGuidance(1.0)])


def test_a_call_that_is_put_in_the_place_of_the_classs_own(monkeypatch):
    for method in (Reversed.__call__, Concealed.__call__):
        with monkeypatch.context() as patch:
            patch.setattr(Inherits, "__call__", method, raising=False)
            patch.setattr(Inherits, "do_classifier_free_guidance", True)
            pipeline = pipeline_of(Inherits)
            if method is Reversed.__call__:
                assert watched(pipeline)[0].roles == (COND, UNCOND)
            else:
                with REFUSED:
                    watched(pipeline)


def test_a_method_that_an_instance_is_given():
    pipeline = make_pipeline(PLAIN)
    run = types.MethodType(Reversed.__call__, pipeline)
    assert watched(pipeline, run)[0].roles == (COND, UNCOND)


def test_a_function_that_uses_the_parts_of_a_pipeline():
    pipeline = make_pipeline(PLAIN)

    def sample(prompt_embeds, negative_prompt_embeds, **_):
        latents = noisy(1)
        text = torch.cat([negative_prompt_embeds, prompt_embeds])
        pipeline.unet(torch.cat([latents] * 2), 500, encoder_hidden_states=text)

    with REFUSED:
        watched(pipeline, sample)


CALLBACK_ROWS = {
    # how a callback picks rows of the pipeline's text -> their kinds
    "both": (slice(None), (UNCOND, COND)),
    "cond": (slice(1, 2), (COND,)),
    "uncond": (slice(0, 1), (UNCOND,)),
}


@pytest.mark.parametrize("name", CALLBACK_ROWS)
def test_a_callback_that_calls_the_unet(name):
    rows, kinds = CALLBACK_ROWS[name]

    def callback(pipeline, step, timestep, tensors):
        text = tensors["prompt_embeds"][rows]
        with torch.no_grad():
            pipeline.unet(noisy(len(text)), timestep, encoder_hidden_states=text)
        return tensors

    options = {
        "callback_on_step_end": callback,
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    }
    calls = watched(make_pipeline(PLAIN), **options)
    assert [call.roles for call in calls] == [(UNCOND, COND), kinds] * 2


def test_a_callback_with_a_text_of_its_own():
    def callback(pipeline, step, timestep, tensors):
        pipeline.unet(noisy(2), timestep, encoder_hidden_states=torch.randn(2, 3, 16))
        return tensors

    with REFUSED:
        watched(make_pipeline(PLAIN), callback_on_step_end=callback)


def test_a_pipeline_inside_another_one_and_inside_itself():
    inner = patch_model(make_pipeline(PLAIN), make_image_prompt(make_pipeline(PLAIN).unet))
    outer = make_pipeline("StableDiffusionInstructPix2PixPipeline")
    expected = inner(**arguments(inner, guidance_scale=1.0)).images
    found = []

    def callback(pipeline, step, timestep, tensors):
        found.append(inner(**arguments(inner, guidance_scale=1.0)).images)
        return tensors

    outer(**arguments(outer, callback_on_step_end=callback))
    plain = inner(**arguments(inner)).images
    inner.scheduler = diffusers.EulerDiscreteScheduler.from_config(inner.scheduler.config)

    def again(pipeline, step, timestep, tensors):
        if step == 1:  # the last one: pipelines keep what they were asked for in attributes
            inner(**arguments(inner, guidance_scale=1.0))
        return tensors

    euler = inner(**arguments(inner)).images
    assert torch.equal(inner(**arguments(inner, callback_on_step_end=again)).images, euler)
    assert len(found) == 2 and all(torch.equal(images, expected) for images in found)
    assert not torch.equal(plain, expected)


def test_pipelines_that_share_a_unet():
    """Copies with schedulers of their own, in threads; pipelines made of another one's parts."""
    pipeline = make_pipeline(PLAIN)
    prompt = make_image_prompt(pipeline.unet)
    expected = {}
    with attach(pipeline, prompt):
        for guidance in (1.0, 3.0):
            inputs = arguments(pipeline, guidance_scale=guidance)
            expected[guidance] = pipeline(**inputs).images
    parent = patch_model(make_pipeline(PLAIN), prompt)

    def request(guidance):
        twin = copy.copy(parent)
        twin.scheduler = copy.deepcopy(parent.scheduler)
        return twin(**arguments(twin, guidance_scale=guidance)).images

    wanted = [1.0, 3.0, 1.0, 3.0]
    with ThreadPoolExecutor(len(wanted)) as pool:
        found = list(pool.map(request, wanted))
    kind, unchecked = diffusers.StableDiffusionPipeline, {"requires_safety_checker": False}
    for other in (
        kind(**patch_model(pipeline, prompt).components, **unchecked),  # the patched one is gone
        kind.from_pipe(parent, **unchecked),
    ):
        other.set_progress_bar_config(disable=True)
        found.append(other(**arguments(other)).images)
        wanted.append(3.0)
    for images, guidance in zip(found, wanted, strict=True):
        torch.testing.assert_close(images, expected[guidance], rtol=0, atol=1e-5)


def test_a_wrapper_that_splits_the_batch():
    class Halves:
        """Saves memory: cond and uncond are run one after the other."""

        def __init__(self, unet):
            self.unet = unet

        def __getattr__(self, name):
            return getattr(self.unet, name)

        def __call__(self, sample, timestep, encoder_hidden_states, **options):
            options["return_dict"] = False
            texts = encoder_hidden_states.split(1)
            halves = zip(sample.split(1), texts, strict=True)
            found = [
                self.unet(x, timestep, encoder_hidden_states=text, **options)[0]
                for x, text in halves
            ]
            return (torch.cat(found),)

    pipeline = make_pipeline(PLAIN)
    prompt = make_image_prompt(pipeline.unet)
    with attach(pipeline, prompt):
        expected = pipeline(**arguments(pipeline)).images
    unet = pipeline.unet
    with attach(unet, prompt), Watch(unet, arguments(pipeline)["negative_prompt_embeds"]) as seen:
        pipeline.register_modules(unet=unet)
        pipeline.__dict__["unet"] = Halves(unet)
        found = pipeline(**arguments(pipeline)).images
    assert [call.roles for call in seen.calls] == [(UNCOND,), (COND,)] * 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
