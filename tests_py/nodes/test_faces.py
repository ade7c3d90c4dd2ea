# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Faces: finding, cutting out, and the nodes for adapters that take them."""

import pytest
import torch
from fake_adapters import Maker
from fake_encoders import FakeFaces
from oracle import plain_prompt, weights_of
from protocol_sampling import make_comfy
from protocol_unet import SD1, SDXL
from running import near, run

from attnpatch import load_image_adapter
from attnpatch.nodes.ipadapter.faces import find_faces, load_analyser


def bright(image, count=1, seed=0):
    return 0.5 + image(count, 96, 80, seed=seed) / 2


@pytest.mark.parametrize("kind", ["faceid", "faceid_plus"])
@pytest.mark.parametrize("batch", [False, True])
def test_face_nodes(kind, batch, model, image, raw_adapter, clip_vision, analyser, render):
    host, raw, given = model(), raw_adapter(kind), bright(image, 2)
    patched, faces = run(
        "IPAAdapterFaceIDBatch" if batch else "IPAdapterFaceID", model=host, ipadapter=raw,
        image=given, weight=0.7, clip_vision=clip_vision, insightface=analyser,
    )  # fmt: skip
    assert faces.shape == (2, 224, 224, 3)
    found = find_faces(analyser, given, raw=False, size=224)
    assert torch.equal(found.crops, faces)
    adapter = load_image_adapter(raw)
    features, negative = found.embeddings, None
    if kind == "faceid_plus":
        hidden = clip_vision.encode_image(faces).penultimate_hidden_states
        black = clip_vision.encode_image(torch.zeros(1, 224, 224, 3)).penultimate_hidden_states
        features, negative = (features, hidden), black
    tokens = adapter.get_image_embeds(features, negative, combine="batch")
    weights, _ = weights_of("SD1", "linear", 0.7)
    uncond = tokens.uncond.expand_as(tokens.cond)
    expected = plain_prompt(host, SD1, raw, tokens.cond, uncond, weights, unfold=batch)
    near(render(patched, batch=2), render(expected, batch=2))


def test_second_version_weighs_the_look(model, image, raw_adapter, clip_vision, analyser, render):
    raw = raw_adapter("faceid_plus") | {"faceidplusv2": True}
    values = {"model": model(), "ipadapter": raw, "image": bright(image), "weight": 0.7,
              "clip_vision": clip_vision, "insightface": analyser}  # fmt: skip
    found = {s: render(run("IPAdapterFaceID", weight_faceidv2=s, **values)[0]) for s in (1.0, 1.4)}
    assert not torch.allclose(found[1.0], found[1.4], atol=1e-4)
    # A node without that input takes twice the weight.
    near(render(run("IPAdapterAdvanced", **values)[0]), found[1.4])


@pytest.fixture(scope="module")
def kolors():
    """Kolors: SDXL's structure, and a projection of its text; and its FaceID adapter."""
    host = make_comfy(SDXL, 16)
    host.model.diffusion_model.encoder_hid_proj = torch.nn.Linear(4096, SDXL.context_dim)
    host.model.requires_grad_(False)
    channels = [16 * multiplier for _, multiplier, _ in SDXL.sites()]
    return host, Maker(8).kolors_face(channels, SDXL.context_dim, face=512)


@pytest.mark.parametrize("name", ["IPAdapterFaceIDKolors", "IPAdapterFaceID"])
def test_faces_for_kolors(name, kolors, image, clip_vision, analyser, render):
    host, raw = kolors
    scale = {"weight_kolors": 0.6} if name == "IPAdapterFaceIDKolors" else {}
    patched, faces = run(
        name, model=host, ipadapter=raw, image=bright(image), weight=0.7, weight_faceidv2=1.3,
        clip_vision=clip_vision, insightface=analyser, **scale,
    )  # fmt: skip
    assert faces.shape == (1, 336, 336, 3)
    face = find_faces(analyser, bright(image), raw=False, size=336).embeddings
    hidden = clip_vision.encode_image(faces).penultimate_hidden_states
    black = clip_vision.encode_image(torch.zeros(1, 336, 336, 3)).penultimate_hidden_states
    tokens = load_image_adapter(raw).get_image_embeds((face, hidden), black, shortcut_scale=1.3)
    linear = host.model.diffusion_model.encoder_hid_proj
    cond, uncond = (
        scale.get("weight_kolors", 1.0) * linear(t) for t in (tokens.cond, tokens.uncond)
    )
    weights, _ = weights_of("SDXL", "linear", 0.7)
    expected = plain_prompt(host, SDXL, raw, cond, uncond, weights)
    near(render(patched, SDXL), render(expected, SDXL))


def test_faces_for_kolors_need_kolors(kolors, model, image, clip_vision, analyser):
    with pytest.raises(
        ValueError, match="the FaceID adapter for Kolors, and the model's UNet is not"
    ):
        run("IPAdapterFaceIDKolors", model=model(SDXL), ipadapter=kolors[1], image=bright(image),
            clip_vision=clip_vision, insightface=analyser)  # fmt: skip


def test_other_adapters_for_faces_have_no_use_for_the_weight_of_kolors(
    model, image, raw_adapter, clip_vision, analyser, render
):
    values = {"model": model(), "ipadapter": raw_adapter("faceid"), "image": bright(image),
              "clip_vision": clip_vision, "insightface": analyser}  # fmt: skip
    found = run("IPAdapterFaceIDKolors", weight_kolors=3.0, **values)[0]
    assert torch.equal(render(found), render(run("IPAdapterFaceID", **values)[0]))


def test_other_adapters_give_the_pictures_back(model, image, raw_adapter, clip_vision):
    _, faces = run("IPAdapterFaceID", model=model(), ipadapter=raw_adapter(), image=image(),
                   clip_vision=clip_vision)  # fmt: skip
    assert torch.equal(faces, image())


def test_raw_embeddings_where_they_are_wanted(image, analyser):
    raw = find_faces(analyser, bright(image), raw=True, size=256)
    normed = find_faces(analyser, bright(image), raw=False, size=256)
    assert normed.embeddings.norm() == pytest.approx(1.0)
    near(raw.embeddings / raw.embeddings.norm(), normed.embeddings)
    assert raw.crops.shape == (1, 256, 256, 3)


def test_close_ups_are_found_at_smaller_sizes_and_the_size_is_set_back(image):
    analyser = FakeFaces(smallest=500)
    find_faces(analyser, bright(image), raw=False, size=224)
    assert analyser.tried == [640, 576, 512, 448]
    assert analyser.det_model.input_size == (320, 320)


def test_no_face_names_the_picture(image, analyser):
    dark = torch.cat([bright(image), torch.zeros(1, 96, 80, 3)])
    with pytest.raises(ValueError, match=r"No face detected: picture 1 \(80 × 96\) shows no face"):
        find_faces(analyser, dark, raw=False, size=224)
    assert analyser.det_model.input_size == (320, 320)


def test_without_an_analyser(model, image, raw_adapter, clip_vision):
    with pytest.raises(ValueError, match="insightface: this adapter takes faces"):
        run("IPAdapterAdvanced", model=model(), ipadapter=raw_adapter("faceid"), image=image(),
            clip_vision=clip_vision)  # fmt: skip


def test_missing_models_are_named_with_the_places(folders):
    with pytest.raises(FileNotFoundError, match="buffalo_l") as caught:
        load_analyser("buffalo_l")
    assert str(folders.root / "models" / "insightface") in str(caught.value)
