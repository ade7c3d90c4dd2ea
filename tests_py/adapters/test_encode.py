# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""From pictures to image tokens in one call."""

import logging
from types import SimpleNamespace

import numpy
import pytest
import torch
from fake_adapters import ROWS, make_state
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from attnpatch import ImagePrompt, load_image_adapter
from attnpatch.adapters.encode import encode_nothing, encode_pictures
from attnpatch.adapters.encoders import ENCODERS, Features
from attnpatch.nodes.ipadapter.encoding import encode_black
from attnpatch.vision import clip_preprocess

SIZE = 32
BY_KIND = {row.kind: row for row in reversed(ROWS)}


def make_adapter(kind):
    return load_image_adapter(make_state(BY_KIND[kind]), kind=kind)


def make_encoder(pooled=1024, hidden=40):
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=pooled,
        image_size=SIZE,
        patch_size=16,
    )
    return CLIPVisionModelWithProjection(config).eval()


ENCODER = make_encoder()


def picture(seed=0, width=50, height=40):
    values = numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    return Image.fromarray(values)


def by_diffusers(image, hidden):
    """Features and negative as diffusers' own pipelines make them."""
    from diffusers import StableDiffusionPipeline

    pipeline = SimpleNamespace(image_encoder=ENCODER)
    pixels = torch.from_numpy(clip_preprocess(image, SIZE))
    with torch.no_grad():
        return StableDiffusionPipeline.encode_image(pipeline, pixels, "cpu", 1, hidden)


@pytest.mark.parametrize("kind", ["linear", "plus"])
def test_tokens_are_those_of_diffusers(kind, caplog):
    adapter, image = make_adapter(kind), picture()
    features, negative = by_diffusers(image, kind == "plus" or None)
    expected = adapter.get_image_embeds(features, negative)
    with caplog.at_level(logging.WARNING):
        found = adapter.encode(image, ENCODER)
    assert not [record for record in caplog.records if record.name == "attnpatch"]
    torch.testing.assert_close(found.cond, expected.cond)
    torch.testing.assert_close(found.uncond, expected.uncond)
    assert not torch.equal(found.cond, found.uncond)


def test_pictures_of_every_kind_give_the_same(tmp_path):
    adapter, image = make_adapter("linear"), picture()
    image.save(tmp_path / "picture.png")
    kinds = [image, tmp_path / "picture.png", numpy.asarray(image), str(tmp_path / "picture.png")]
    kinds.append(torch.from_numpy(numpy.array(image)))
    first, *others = (adapter.encode(kind, ENCODER).cond for kind in kinds)
    assert all(torch.equal(first, other) for other in others)
    assert torch.equal(
        adapter.preprocess(image, 48, crop="pad"),
        torch.from_numpy(clip_preprocess(image, 48, crop="pad")),
    )


@settings(max_examples=10)
@given(
    kind=st.sampled_from(["linear", "plus", "full_face"]),
    count=st.integers(1, 3),
    combine=st.sampled_from(["concat", "average", "batch", None]),
    negative=st.sampled_from(["zeros", "black"]),
    crop=st.sampled_from(["center", "left", "pad"]),
)
def test_encoding_is_features_and_then_tokens(kind, count, combine, negative, crop):
    adapter, images = make_adapter(kind), [picture(seed) for seed in range(count)]
    form = adapter.takes[0].form
    pixels = adapter.preprocess(images, SIZE, crop=crop)
    empty = torch.zeros(1, 3, SIZE, SIZE)
    if negative == "black":
        empty = adapter.preprocess(Image.new("RGB", (9, 9)), SIZE)
    with torch.no_grad():
        features, nothing = (ENCODER(x, output_hidden_states=True) for x in (pixels, empty))
    expected = adapter.get_image_embeds(
        features, nothing if form == "hidden" else None, combine=combine
    )
    found = adapter.encode(images, ENCODER, negative=negative, combine=combine, crop=crop)
    torch.testing.assert_close(found.cond, expected.cond)
    torch.testing.assert_close(found.uncond, expected.uncond)
    assert found.metadata == expected.metadata


def test_the_two_negatives_differ_where_they_are_encoded():
    zeros, black = (
        [make_adapter(kind).encode(picture(), ENCODER, negative=negative).uncond
         for kind in ("linear", "plus")]
        for negative in ("zeros", "black")
    )  # fmt: skip
    assert torch.equal(zeros[0], black[0])
    assert not torch.allclose(zeros[1], black[1])


def test_a_function_encodes_as_well():
    seen = []

    def encoder(pixels):
        seen.append(tuple(pixels.shape))
        return SimpleNamespace(image_embeds=pixels.mean((1, 2, 3))[:, None].expand(-1, 1024))

    adapter = make_adapter("linear")
    embeds = adapter.encode([picture(), picture(1)], encoder, combine=None)
    assert seen == [(2, 3, 224, 224)]
    assert embeds.cond.shape[0] == 2 and not torch.equal(*embeds.cond)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_encoder_sees_its_own_dtype(dtype):
    adapter, encoder = make_adapter("plus"), make_encoder().to(dtype)
    embeds = adapter.encode(picture(), encoder)
    assert embeds.cond.dtype == adapter.dtype
    expected = adapter.encode(picture(), ENCODER)
    torch.testing.assert_close(embeds.cond, expected.cond, atol=0.1, rtol=0.1)


def test_an_offloaded_encoder_runs():
    accelerate = pytest.importorskip("accelerate")
    encoder = accelerate.cpu_offload(make_encoder(), execution_device="cpu")
    assert next(encoder.parameters()).is_meta
    expected = encode_pictures(picture(), ENCODER, "pooled")
    torch.testing.assert_close(encode_pictures(picture(), encoder, "pooled"), expected)


def test_gradients_reach_the_adapter_and_not_the_encoder():
    state = make_state(BY_KIND["plus"])
    latents = state["image_proj"]["latents"].requires_grad_()
    encoder = make_encoder()
    load_image_adapter(state).encode(picture(), encoder).cond.square().sum().backward()
    assert latents.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize("kind", ["faceid_plus", "faceid_plus_v2"])
def test_faces_beside_pictures(kind):
    adapter, image = make_adapter(kind), picture()
    embedding = torch.nn.functional.normalize(torch.randn(512), dim=0)
    face = SimpleNamespace(normed_embedding=embedding.numpy(), embedding=20 * embedding.numpy())
    hidden = encode_pictures(image, ENCODER, "hidden")
    nothing = encode_nothing(ENCODER, "hidden")
    expected = adapter.get_image_embeds((embedding[None], hidden), nothing)
    for faces in (embedding, embedding[None], embedding.numpy(), face, [face]):
        found = adapter.encode(image, ENCODER, faces=faces)
        assert torch.equal(found.cond, expected.cond)
        assert torch.equal(found.uncond, expected.uncond)
    one_for_all = adapter.encode([image, picture(1)], ENCODER, faces=face, combine="batch")
    torch.testing.assert_close(one_for_all.cond[:1], expected.cond)
    with pytest.raises(ValueError, match=rf"^faces: expected faces .* {kind} .*, got None"):
        adapter.encode(image, ENCODER)
    with pytest.raises(ValueError, match="its parts have 3 and 2 pictures"):
        adapter.encode([image, image], ENCODER, faces=[face] * 3)


@pytest.mark.parametrize("kind", ["faceid", "faceid_portrait", "portrait_unnorm", "instantid"])
def test_adapters_of_faces_are_told_to_use_faces(kind):
    with pytest.raises(
        ValueError, match=rf"^adapter: expected .*pictures, got {kind}, .*faces: us"
    ):
        make_adapter(kind).encode(picture(), ENCODER)


def test_what_does_not_fit_is_said():
    linear, plus = make_adapter("linear"), make_adapter("plus")
    with pytest.raises(ValueError, match=r"^negative: expected zeros or black, got 'white'"):
        linear.encode(picture(), ENCODER, negative="white")
    with pytest.raises(ValueError, match=r"^faces: expected None, since linear .*, got Tensor"):
        linear.encode(picture(), ENCODER, faces=torch.ones(512))
    with pytest.raises(TypeError, match=r"^encoder: expected a CLIPVisionModelWith.*, got str"):
        linear.encode(picture(), "openai/clip")
    output = SimpleNamespace(hidden_states=None)
    with pytest.raises(TypeError, match=r"^encoder: expected an output with hidden_states"):
        plus.encode(picture(), lambda pixels: output)
    with pytest.raises(
        TypeError, match=r"^encoder: expected an output with image_embeds.* of CLIPV"
    ):
        linear.encode(picture(), ENCODER.vision_model)
    with pytest.raises(ValueError, match=r"^encoder: this linear adapter takes .*got \(1, 24\)"):
        linear.encode(picture(), make_encoder(pooled=24))
    with pytest.raises(OSError, match=r"absent\.png"):
        linear.encode("absent.png", ENCODER)


@pytest.mark.parametrize("kind", ["linear", "plus"])
def test_a_prompt_of_pictures(kind):
    adapter, images = make_adapter(kind), [picture(), picture(1)]
    options = {"combine": "batch", "negative": "black", "crop": "left"}
    expected = ImagePrompt(adapter, adapter.encode(images, ENCODER, **options), 0.5, end=0.7)
    found = ImagePrompt.from_pictures(adapter, images, ENCODER, 0.5, end=0.7, **options)
    assert found == expected
    assert found.samples == 2
    with pytest.raises(TypeError, match="has no option strength"):
        ImagePrompt.from_pictures(adapter, images, ENCODER, strength=1)


def test_what_is_no_adapter_is_told():
    embeds = make_adapter("linear").encode(picture(), ENCODER)
    with pytest.raises(TypeError, match=r"^adapter: expected what load_image_adapter .*, got str"):
        ImagePrompt("adapter.safetensors", embeds)
    with pytest.raises(TypeError, match=r"^adapter: expected what load_image_adapter .*, got str"):
        ImagePrompt.from_pictures("adapter.safetensors", picture(), ENCODER)


class HostVision:
    """A host's model of the same weights, which takes pictures and normalises them itself."""

    image_size = SIZE

    def encode_image(self, image):
        pixels = torch.from_numpy(clip_preprocess(image, SIZE))
        with torch.no_grad():
            states = ENCODER(pixels, output_hidden_states=True).hidden_states
        return SimpleNamespace(penultimate_hidden_states=states[-2])


def test_black_is_what_the_nodes_take():
    found = encode_nothing(ENCODER, "hidden", "black")
    torch.testing.assert_close(found, encode_black(HostVision(), "hidden"))


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_published_encoders_are_found_by_what_an_adapter_takes(encoder):
    assert encoder in Features(encoder.hidden, "hidden").encoders
    assert encoder in Features(encoder.pooled, "pooled").encoders
    assert not Features(encoder.pooled, "face").encoders
    assert len(encoder.repository.split("/")) == 2
