# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes for InstantID."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_encoders import FakeFaces
from oracle import plain_prompt, weights_of
from protocol_host import SD1
from running import near, run
from safetensors.torch import save_file

from attnpatch.adapters import as_identity_adapter, get_identity_embeds
from attnpatch.faces import FaceAnalysis, as_insightface, draw_keypoints
from attnpatch.nodes.ipadapter.sockets import AdapterDict

SIZE = (96, 80)


class FakeControl:
    """A ControlNet that notes what it is told."""

    def __init__(self):
        self.previous = None
        self.cond_hint_original = None

    def copy(self):
        return FakeControl()

    def set_cond_hint(self, hint, strength, window):
        self.cond_hint_original, self.strength, self.window = hint, strength, window
        return self

    def set_previous_controlnet(self, previous):
        self.previous = previous
        return self


@pytest.fixture
def instantid(raw_adapter):
    """The state dict of a small InstantID for the small UNet."""
    from fake_adapters import Maker

    raw = raw_adapter("plus")
    context = raw["ip_adapter"]["1.to_k_ip.weight"].shape[1]
    projection = Maker(seed=8).resampler(
        embed=512, dim=48, heads=1, depth=1, queries=6, output=context
    )
    return raw | {"image_proj": projection}


@pytest.fixture
def bright(image):
    def make(count=1, seed=0):
        return 0.5 + image(count, *SIZE, seed=seed) / 2

    return make


def embeddings_of(analyser, pictures):
    bgr = [np.ascontiguousarray(p[..., ::-1]) for p in (pictures * 255).byte().numpy()]
    return torch.from_numpy(np.stack([analyser.get(p)[0].embedding for p in bgr]))


def expect(host, raw, tokens, weight):
    weights, _ = weights_of("SD1", "linear", weight)
    return plain_prompt(host, SD1, raw, tokens.cond, tokens.uncond, weights)


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_patch_node(noise, model, instantid, bright, render):
    host, analyser, given = model(), FakeFaces(), bright(2)
    patched, face = run(
        "InstantIDAttentionPatch", instantid=instantid, insightface=analyser, image=given,
        model=host, weight=0.7, noise=noise,
    )  # fmt: skip
    wanted = get_identity_embeds(instantid, embeddings_of(FakeFaces(), given), noise=noise)
    near(face["cond"], wanted.cond)
    near(face["uncond"], wanted.uncond)
    near(render(patched), render(expect(host, instantid, wanted, 0.7)))


def test_patch_node_of_weight_0_gives_the_model_back(model, instantid, bright):
    host = model()
    patched, face = run(
        "InstantIDAttentionPatch", instantid=instantid, insightface=FakeFaces(), image=bright(),
        model=host, weight=0,
    )  # fmt: skip
    assert patched is host and face["cond"].shape == (1, 6, 24)


@pytest.mark.parametrize("weight", [-1.0, -0.3, 0.5, 1.7, 3.0])
def test_weights_from_below_0_to_3(weight, model, instantid, bright, render):
    host, given = model(), bright()
    values = {"instantid": instantid, "insightface": FakeFaces(), "image": given, "model": host}
    patched, _ = run("InstantIDAttentionPatch", weight=weight, **values)
    wanted = get_identity_embeds(instantid, embeddings_of(FakeFaces(), given))
    near(render(patched), render(expect(host, instantid, wanted, weight)))


def test_mask_and_window(model, instantid, bright, render):
    host = model()
    values = {"instantid": instantid, "insightface": FakeFaces(), "image": bright(), "model": host}

    def patched(**more):
        return run("InstantIDAttentionPatch", **values, **more)[0]

    plain, whole = render(host), render(patched())
    assert torch.equal(render(patched(mask=torch.ones(1, 32, 32))), whole)
    assert torch.equal(render(patched(mask=torch.zeros(1, 32, 32))), plain)
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1
    assert not torch.allclose(render(patched(mask=left)), whole, atol=1e-3)
    sampling = host.model.model_sampling
    part = patched(start_at=0.2, end_at=0.7)
    for percent, inside in ((0.1, False), (0.2, True), (0.5, True), (0.7, True), (0.8, False)):
        sigma = sampling.percent_to_sigma(percent)
        wanted = patched() if inside else host
        assert torch.equal(render(part, sigma=sigma), render(wanted, sigma=sigma))


@pytest.mark.parametrize("rule", ["deepcopy", "shared", "aliased"])
def test_chained_twice_and_run_four_times_it_is_the_same_picture(
    rule, model, instantid, bright, render
):
    """The model of the first node stays in the host's cache; the second runs again."""
    host = model()
    host.clone_rule = rule
    plain = render(host)
    values = {"instantid": instantid, "insightface": FakeFaces()}
    first, _ = run("InstantIDAttentionPatch", model=host, image=bright(), weight=0.6, **values)
    alone, found = render(first), []
    for _ in range(4):
        second, _ = run(
            "InstantIDAttentionPatch", model=first, image=bright(seed=3), weight=0.4, **values
        )
        found.append(render(second))
    assert all(torch.equal(found[0], other) for other in found[1:])
    assert not torch.allclose(found[0], alone, atol=1e-3)
    assert torch.equal(render(first), alone) and torch.equal(render(host), plain)


def test_loaded_raw_and_foreign_models_are_the_same(model, instantid, bright, render, folders):
    (folders.root / "models" / "instantid").mkdir()
    flat = {f"{g}.{n}": t.clone() for g, ts in instantid.items() for n, t in ts.items()}
    save_file(flat, folders.root / "models" / "instantid" / "ip-adapter.safetensors")
    (loaded,) = run("InstantIDModelLoader", instantid_file="ip-adapter.safetensors")
    assert isinstance(loaded, AdapterDict) and loaded.adapter.kind == "instantid"
    values = {"insightface": FakeFaces(), "image": bright(), "model": model()}
    forms = (loaded, instantid, as_identity_adapter(instantid))
    renders = [render(run("InstantIDAttentionPatch", instantid=f, **values)[0]) for f in forms]
    assert all(torch.equal(renders[0], other) for other in renders[1:])


def test_apply_node_patches_model_and_conditionings(model, instantid, bright, render):
    host, text = model(), torch.ones(1, 7, 24)
    before = FakeControl()
    positive, negative = [[text, {"a": 1}], [2 * text, {"control": before}]], [[text, {}]]
    patched, plus, minus = run(
        "ApplyInstantID", instantid=instantid, insightface=FakeFaces(), control_net=FakeControl(),
        image=bright(), model=host, positive=positive, negative=negative, weight=0.6,
        start_at=0.1, end_at=0.9, mask=torch.ones(8, 8),
    )  # fmt: skip
    tokens = get_identity_embeds(instantid, embeddings_of(FakeFaces(), bright()), noise=0.35)
    near(render(patched), render(expect(host, instantid, tokens, 0.6)))
    assert positive[0][1] == {"a": 1} and negative == [[text, {}]]
    (first_text, first), (_, second) = plus
    assert first_text is text and first["a"] == 1
    assert first["control"].previous is None and second["control"].previous is before
    assert minus[0][1]["control"] is first["control"]
    assert (first["control"].strength, first["control"].window) == (0.6, (0.1, 0.9))
    for entry, wanted in (
        (first, tokens.cond),
        (second, tokens.cond),
        (minus[0][1], tokens.uncond),
    ):
        near(entry["cross_attn_controlnet"], wanted)
        assert entry["control_apply_to_uncond"] is False
    assert first["mask"].shape == (1, 8, 8) and first["set_area_to_bounds"] is False
    assert "mask" not in minus[0][1]
    points = FakeFaces().get(np.full((*SIZE, 3), 200, np.uint8))[0].kps
    drawn = torch.from_numpy(draw_keypoints(points, *SIZE)).float() / 255
    assert torch.equal(first["control"].cond_hint_original, drawn.movedim(-1, 0)[None])


def test_advanced_node_has_two_weights(model, instantid, bright, render):
    host = model()
    values = {
        "instantid": instantid, "insightface": FakeFaces(), "control_net": FakeControl(),
        "image": bright(3), "model": host, "positive": [[torch.ones(1, 7, 24), {}]], "negative": [],
    }  # fmt: skip
    patched, plus, _ = run("ApplyInstantIDAdvanced", ip_weight=0.9, cn_strength=1.5,
                           combine_embeds="concat", **values)  # fmt: skip
    tokens = get_identity_embeds(instantid, embeddings_of(FakeFaces(), bright(3)), combine="concat")
    assert tokens.cond.shape[1] == 18
    near(render(patched), render(expect(host, instantid, tokens, 0.9)))
    assert plus[0][1]["control"].strength == 1.5
    unpatched, _, _ = run("ApplyInstantIDAdvanced", ip_weight=0, **values)
    assert torch.equal(render(unpatched), render(host))


def test_pictures_without_a_face(model, instantid, bright, caplog):
    dark = torch.zeros(1, *SIZE, 3)
    values = {"instantid": instantid, "insightface": FakeFaces(), "model": model()}
    with pytest.raises(ValueError, match=r"^Reference Image: No face detected.*80 × 96"):
        run("InstantIDAttentionPatch", image=dark, **values)
    some = run("InstantIDAttentionPatch", image=torch.cat([dark, bright()]), **values)[1]
    near(some["cond"], run("InstantIDAttentionPatch", image=bright(), **values)[1]["cond"])
    # Where keypoints can not be found the picture for them is taken as it is.
    with caplog.at_level(logging.WARNING, "attnpatch"):
        _, plus, _ = run(
            "ApplyInstantID", control_net=FakeControl(), image=bright(), image_kps=dark + 0.01,
            positive=[[torch.ones(1, 7, 24), {}]], negative=[], **values,
        )  # fmt: skip
    assert "image_kps: no face" in caplog.text
    near(plus[0][1]["control"].cond_hint_original, (dark + 0.01).movedim(-1, 1))


def test_keypoints_preprocessor(bright, caplog):
    (drawn,) = run("FaceKeypointsPreprocessor", faceanalysis=FakeFaces(), image=bright(2))
    assert drawn.shape == (2, *SIZE, 3) and float(drawn.max()) == 1
    (black,) = run("FaceKeypointsPreprocessor", faceanalysis=FakeFaces(), image=0 * bright())
    assert black.shape == (1, *SIZE, 3) and not black.any()
    assert "no face" in caplog.text


def test_control_net_node(bright):
    face = {"cond": torch.ones(1, 6, 24), "uncond": torch.zeros(1, 6, 24)}
    entries = [[torch.ones(1, 7, 24), {}]]
    values = {"face_embeds": face, "control_net": FakeControl(), "image_kps": bright(),
              "positive": entries, "negative": entries}  # fmt: skip
    plus, minus = run("ApplyInstantIDControlNet", strength=0.5, **values)
    assert torch.equal(plus[0][1]["cross_attn_controlnet"], face["cond"])
    assert torch.equal(minus[0][1]["cross_attn_controlnet"], face["uncond"])
    assert run("ApplyInstantIDControlNet", strength=0, **values) == (entries, entries)


def test_analysis_node_says_where_it_looked(folders, monkeypatch):
    monkeypatch.setenv("HOME", str(folders.root))
    with pytest.raises(FileNotFoundError, match="antelopev2") as error:
        run("InstantIDFaceAnalysis")
    assert str(folders.root / "models" / "insightface" / "models" / "antelopev2") in str(
        error.value
    )


def test_our_analysis_serves_other_packs_and_theirs_ours(monkeypatch):
    """What other packs do with the object, on ours."""
    engine = SimpleNamespace(
        find=lambda *a: ([[0, 0, 9, 9]], np.ones(1), np.zeros((1, 5, 2)), 640, 0.0)
    )
    analysis = object.__new__(FaceAnalysis)
    analysis.sizes, analysis.paddings, analysis.threshold = (640,), (0.0,), 0.5
    analysis._detector = engine
    analysis._recogniser = SimpleNamespace(
        embed=lambda picture, points: picture[0, 0].astype(float)
    )
    view = as_insightface(analysis)
    view.det_model.input_size = (320, 320)
    red_in_bgr = np.zeros((8, 8, 3), np.uint8)
    red_in_bgr[..., 2] = 255
    (face,) = view.get(red_in_bgr)
    assert face["embedding"].tolist() == [255, 0, 0] and face.bbox.tolist() == [0, 0, 9, 9]
