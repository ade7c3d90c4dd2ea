# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pipelines with transformers: which calls and rows are cond, and where sampling stands."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from transformer_models import CASES, TEXT

import attnpatch as ap
from attnpatch.hosts.diffusers.patched_model import PatchedModel
from attnpatch.patches import KeyGain, TextKeys

pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Passing .image. as torch tensor:FutureWarning"),
]
STEPS = 3
COND, UNCOND = 0, 1


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(kind, model, **more):
    """A pipeline of `kind` without text encoders and VAE."""
    names = ("vae", "text_encoder", "tokenizer", *more.pop("absent", ()))
    pipeline = kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=model,
        **dict.fromkeys(names),
        **more,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


TWO = ("text_encoder_2", "tokenizer_2")
THREE = (*TWO, "text_encoder_3", "tokenizer_3")
SIZE = {"height": 80, "width": 48, "num_inference_steps": STEPS, "output_type": "latent"}


def embeds(*shape, **names):
    return {name: rand(*shape, seed=place) for place, name in enumerate(names, 1) if names[name]}


def flux(batch, guided):
    pipeline = make(diffusers.FluxPipeline, CASES["FluxTransformer2DModel"].make(), absent=TWO)
    more = {"true_cfg_scale": 4.0} if guided else {}
    return pipeline, {
        **embeds(batch, TEXT, 12, prompt_embeds=True, negative_prompt_embeds=guided),
        **embeds(batch, 10, pooled_prompt_embeds=True, negative_pooled_prompt_embeds=guided),
        **more,
    }


def chroma(batch, guided):
    pipeline = make(diffusers.ChromaPipeline, CASES["ChromaTransformer2DModel"].make())
    mask = torch.ones(batch, TEXT)
    return pipeline, {
        **embeds(batch, TEXT, 12, prompt_embeds=True, negative_prompt_embeds=guided),
        "prompt_attention_mask": mask,
        **({"negative_prompt_attention_mask": mask} if guided else {}),
        "guidance_scale": 4.0 if guided else 0.0,
    }


def klein(batch, guided):
    pipeline = make(diffusers.Flux2KleinPipeline, CASES["Flux2Transformer2DModel"].make())
    # It asks its VAE for the statistics of latents.
    bn = SimpleNamespace(running_mean=torch.zeros(8), running_var=torch.ones(8))
    pipeline.vae = SimpleNamespace(bn=bn, config=SimpleNamespace(batch_norm_eps=1e-4))
    return pipeline, {
        **embeds(batch, TEXT, 12, prompt_embeds=True, negative_prompt_embeds=guided),
        "guidance_scale": 4.0 if guided else 1.0,
    }


def qwen(batch, guided):
    pipeline = make(diffusers.QwenImagePipeline, CASES["QwenImageTransformer2DModel"].make())
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    negative = {"negative_prompt_embeds_mask": mask, "true_cfg_scale": 4.0} if guided else {}
    return pipeline, {
        **embeds(batch, TEXT, 12, prompt_embeds=True, negative_prompt_embeds=guided),
        "prompt_embeds_mask": mask,
        **negative,
    }


def sd3(batch, guided):
    model = CASES["SD3Transformer2DModel"].make()
    pipeline = make(diffusers.StableDiffusion3Pipeline, model, absent=THREE)
    return pipeline, {
        **embeds(batch, TEXT, 12, prompt_embeds=True, negative_prompt_embeds=True),
        **embeds(batch, 10, pooled_prompt_embeds=True, negative_pooled_prompt_embeds=True),
        "guidance_scale": 4.0 if guided else 1.0,
    }


def z_image(batch, guided):
    pipeline = make(diffusers.ZImagePipeline, CASES["ZImageTransformer2DModel"].make())
    texts = [rand(TEXT, 12, seed=row) for row in range(batch)]
    negative = [rand(TEXT - 3, 12, seed=9 + row) for row in range(batch)]
    return pipeline, {
        "prompt": None,
        "prompt_embeds": texts,
        "negative_prompt_embeds": negative if guided else [],
        "guidance_scale": 4.0 if guided else 0.0,
    }


def krea2(batch, guided):
    pipeline = make(diffusers.Krea2Pipeline, CASES["Krea2Transformer2DModel"].make())
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    negative = {"negative_prompt_embeds_mask": mask} if guided else {}
    return pipeline, {
        **embeds(batch, TEXT, 2, 12, prompt_embeds=True, negative_prompt_embeds=guided),
        "prompt_embeds_mask": mask,
        **negative,
        "guidance_scale": 4.0 if guided else 0.0,
    }


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
        seen.append((call.kinds, call.progress))

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
