# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Normalized attention guidance in every family of transformers, against its formula in a host."""

import diffusers
import pytest
import torch
from joint_guidance import (
    doubled,
    guided,
    negative_of,
    patch,
    rand,
    run,
    tokens_beside,
)
from transformer_models import CASES, REFERENCES, TEXT
from transformer_pipelines import SIZE, chroma, flux, klein, krea2, qwen, sd3, z_image

import attnpatch as ap
from attnpatch.patches import KeyGain, NormalizedAttentionGuidance, TextKeys

pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning"),
]


@pytest.fixture(scope="module", params=list(CASES))
def named(request):
    case = CASES[request.param]
    return request.param, case, case.make()


@pytest.mark.parametrize(("batch", "kinds"), [(1, (0,)), (2, (1, 0)), (3, (0,))])
def test_it_is_the_formula(named, batch, kinds):
    _, case, model = named
    references = REFERENCES if case.references else ()
    arguments = case.arguments(batch, references)
    negative = negative_of(arguments)
    rows = [row for row in range(batch) if kinds[row * len(kinds) // batch] == 0]
    total, beside = tokens_beside(case, references)
    pairs = [(row, batch + place) for place, row in enumerate(rows)]
    with guided(total, beside, pairs):
        right = run(model, doubled(arguments, negative, batch, rows))[:batch]
    plain = run(model, arguments)
    with ap.attach(model, patch(negative), cond_or_uncond=kinds):
        found = run(model, arguments)
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
    assert len(found) == batch
    assert not torch.allclose(found[rows], plain[rows], atol=1e-4)
    for row in set(range(batch)) - set(rows):
        torch.testing.assert_close(found[row], plain[row], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run(model, arguments), plain, rtol=1e-6, atol=1e-6)


def test_off_and_out_of_its_window(named):
    _, case, model = named
    arguments = case.arguments(1)
    negative = negative_of(arguments)
    plain = run(model, arguments)
    for off in (patch(negative, start=0.5), NormalizedAttentionGuidance(negative, 1.0)):
        with ap.attach(model, off, cond_or_uncond=(0,)):
            torch.testing.assert_close(run(model, arguments), plain, rtol=1e-6, atol=1e-6)


def test_beside_a_gain(named):
    """The gain is for the words of the prompt, not for those in their place in the negative."""
    _, case, model = named
    arguments = case.arguments(1)
    negative = negative_of(arguments)
    gain = KeyGain(TextKeys((1,)), 5.0)
    with ap.attach(model, [gain, patch(negative)], cond_or_uncond=(0,)):
        both = run(model, arguments)
    with ap.attach(model, [patch(negative), gain], cond_or_uncond=(0,)):
        torch.testing.assert_close(run(model, arguments), both, rtol=1e-5, atol=1e-5)
    for one in (gain, patch(negative)):
        with ap.attach(model, one, cond_or_uncond=(0,)):
            assert not torch.allclose(run(model, arguments), both, atol=1e-4)


def test_shorter_texts_where_the_model_has_a_mask(named):
    name, case, model = named
    arguments = case.arguments(1)
    negative = negative_of(arguments)
    short = negative[:, : TEXT - 3]
    padded = torch.cat([short, torch.zeros_like(negative[:, TEXT - 3 :])], dim=1)
    own = torch.arange(TEXT) < TEXT - 3
    if name in ("FluxTransformer2DModel", "Flux2Transformer2DModel", "SD3Transformer2DModel"):
        for guidance in (patch(short), patch(padded, attention_mask=own)):
            with (
                ap.attach(model, guidance, cond_or_uncond=(0,)),
                pytest.raises(ValueError, match=f"negative: expected a text of {TEXT} tokens"),
            ):
                run(model, arguments)
        return
    with ap.attach(model, patch(short), cond_or_uncond=(0,)):
        found = run(model, arguments)
    with ap.attach(model, patch(padded, attention_mask=own), cond_or_uncond=(0,)):
        torch.testing.assert_close(run(model, arguments), found, rtol=1e-5, atol=1e-5)


def test_texts_of_other_channels(named):
    _, case, model = named
    arguments = case.arguments(1)
    negative = negative_of(arguments)[..., :-1]
    with (
        ap.attach(model, patch(negative), cond_or_uncond=(0,)),
        pytest.raises(ValueError, match="negative: expected text embeddings of"),
    ):
        run(model, arguments)


def test_two_negatives_are_refused(named):
    _, case, model = named
    arguments = case.arguments(1)
    negative = negative_of(arguments)
    with (
        ap.attach(model, [patch(negative), patch(-negative)], cond_or_uncond=(0,)),
        pytest.raises(ValueError, match="negative: expected one negative text"),
    ):
        run(model, arguments)


PIPELINES = {
    "flux": flux,
    "chroma": chroma,
    "klein": klein,
    "qwen": qwen,
    "krea2": krea2,
    "sd3": sd3,
    "z_image": z_image,
}


@pytest.mark.parametrize("guidance", [False, True])
@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines(name, guidance):
    """At guidance 1, and beside classifier-free guidance, whatever the layout of its rows."""
    pipeline, arguments = PIPELINES[name](2, guidance)

    def picture():
        generator = torch.Generator().manual_seed(0)
        return pipeline(**arguments, **SIZE, generator=generator).images

    text = arguments["prompt_embeds"]
    negative = rand(1, *(text[0].shape if isinstance(text, list) else text.shape[1:]))
    plain = picture()
    with ap.attach(pipeline, patch(negative)):
        found = picture()
    assert found.shape == plain.shape
    assert torch.isfinite(found).all() and not torch.allclose(found, plain, atol=1e-4)
    torch.testing.assert_close(picture(), plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [flux, sd3])
def test_one_text_for_several_images(make):
    """Some pipelines hand over one row of a text for all latents."""
    pipeline, arguments = make(1, False)
    negative = rand(1, *arguments["prompt_embeds"].shape[1:])
    twice = {k: torch.cat([v, v]) if torch.is_tensor(v) else v for k, v in arguments.items()}
    with ap.attach(pipeline, patch(negative)):
        found, right = (
            pipeline(**given, **SIZE, generator=torch.Generator().manual_seed(0)).images
            for given in ({**arguments, "num_images_per_prompt": 2}, twice)
        )
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_caches_that_rows_would_not_fit():
    """What one step keeps would have the rows of another: two pictures in the place of one."""
    pipeline, arguments = flux(1, False)
    model = pipeline.transformer
    negative = rand(1, *arguments["prompt_embeds"].shape[1:])

    def picture(guidance):
        with ap.attach(pipeline, guidance):
            generator = torch.Generator().manual_seed(0)
            return pipeline(**arguments, **SIZE, generator=generator).images

    broadcast = diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 10001),
        current_timestep_callback=lambda: 500,
    )
    first_block = diffusers.FirstBlockCacheConfig(threshold=0.5)
    whole, part = patch(negative), patch(negative, end=0.2)
    for config, allowed in ((broadcast, ()), (first_block, (whole,))):
        model.enable_cache(config)
        for guidance in (whole, part):
            if guidance in allowed:
                assert len(picture(guidance)) == 1
                continue
            with pytest.raises(ValueError, match="negative: expected a transformer without caches"):
                picture(guidance)
        model.disable_cache()
    assert len(picture(part)) == 1
