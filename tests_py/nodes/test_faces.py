# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Faces: finding, cutting out, and the nodes for adapters that take them."""

import pytest
import torch
from fake_encoders import FakeFaces
from oracle import plain_prompt, weights_of
from protocol_host import SD1
from running import near, run

from attnpatch import load_image_adapter
from attnpatch.nodes.faces import find_faces, load_analyser


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
