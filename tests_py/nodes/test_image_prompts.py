# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Apply nodes against image prompts that are computed plainly."""

import pytest
import torch
from oracle import WEIGHT_TYPES, plain_prompt, weights_of
from protocol_host import SD1, SDXL, make_inputs
from running import near, run

import attnpatch
from attnpatch import load_image_adapter
from attnpatch.patches import split_by_weight_type

STRUCTURES = {"SD1": SD1, "SDXL": SDXL}


@pytest.fixture
def tokens(raw_adapter, clip_vision):
    """Image tokens of pictures, straight from the adapter."""

    def make(image, kind="linear", structure=SD1, combine="batch", negative=None):
        adapter = load_image_adapter(raw_adapter(kind, structure))
        form = "image_embeds" if kind == "linear" else "penultimate_hidden_states"
        positive = getattr(clip_vision.encode_image(image), form)
        if negative is None and kind == "plus":
            negative = torch.zeros(1, 224, 224, 3)
        if negative is not None:
            negative = getattr(clip_vision.encode_image(negative), form)
        embeds = adapter.get_image_embeds(positive, negative, combine=combine)
        return embeds.cond, embeds.uncond

    return make


@pytest.mark.parametrize("kind", ["linear", "plus"])
@pytest.mark.parametrize("family", STRUCTURES)
def test_advanced_adds_the_pictures(family, kind, model, image, raw_adapter, clip_vision, tokens,
                                    render):  # fmt: skip
    structure = STRUCTURES[family]
    raw, pictures, host = raw_adapter(kind, structure), image(2, 32, 48), model(structure)
    before = render(host, structure, batch=2)
    (patched,) = run(
        "IPAdapterAdvanced", model=host, ipadapter=raw, image=pictures, weight=0.8,
        clip_vision=clip_vision,
    )  # fmt: skip
    cond, uncond = tokens(pictures, kind, structure)
    weights, _ = weights_of(family, "linear", 0.8)
    expected = plain_prompt(host, structure, raw, cond, uncond.expand_as(cond), weights)
    near(render(patched, structure, batch=2), render(expected, structure, batch=2))
    assert torch.equal(render(host, structure, batch=2), before)
    assert not torch.allclose(render(patched, structure, batch=2), before, atol=1e-3)


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@pytest.mark.parametrize("family", STRUCTURES)
def test_weight_types_reach_their_layers(family, weight_type, model, image, raw_adapter,
                                         clip_vision, tokens, render):  # fmt: skip
    structure = STRUCTURES[family]
    raw, host = raw_adapter("plus", structure), model(structure)
    (patched,) = run(
        "IPAdapterAdvanced", model=host, ipadapter=raw, image=image(), weight=0.7,
        weight_type=weight_type, clip_vision=clip_vision,
    )  # fmt: skip
    weights, away = weights_of(family, weight_type, 0.7)
    expected = plain_prompt(host, structure, raw, *tokens(image(), "plus", structure), weights,
                            away=away)  # fmt: skip
    near(render(patched, structure), render(expected, structure))


def test_quirks_weigh_the_composition_by_one_and_miss_the_middle(
    model, image, raw_adapter, clip_vision, tokens, render
):
    raw, host = raw_adapter("plus"), model()
    (patched,) = run(
        "IPAdapterAdvanced", model=host, ipadapter=raw, image=image(), weight=0.5,
        weight_type="style and composition", clip_vision=clip_vision, reference_quirks=True,
    )  # fmt: skip
    weights, _ = weights_of("SD1", "style and composition", 0.5, composition=1.0)
    expected = plain_prompt(host, SD1, raw, *tokens(image(), "plus"), weights)
    near(render(patched), render(expected))
    (patched,) = run(
        "IPAdapterAdvanced", model=host, ipadapter=raw, image=image(), clip_vision=clip_vision,
        reference_quirks=True,
    )  # fmt: skip
    weights, _ = weights_of("SD1", "linear", 1.0)
    del weights[6]
    near(render(patched), render(plain_prompt(host, SD1, raw, *tokens(image(), "plus"), weights)))


@pytest.mark.parametrize("simple", ["standard", "prompt is more important", "style transfer"])
def test_simple_node(simple, model, image, raw_adapter, clip_vision, render):
    pipeline = {
        "ipadapter": {"file": "x", "model": raw_adapter()},
        "clipvision": {"file": "y", "model": clip_vision},
    }
    host = model()
    (patched,) = run("IPAdapter", model=host, ipadapter=pipeline, image=image(), weight_type=simple)
    full = {"standard": "linear", "prompt is more important": "ease out"}.get(simple, simple)
    (same,) = run("IPAdapterAdvanced", model=host, ipadapter=pipeline, image=image(),
                  weight_type=full)  # fmt: skip
    assert torch.equal(render(patched), render(same))


@pytest.mark.parametrize("pictures", [1, 3, 6])
def test_batch_gives_each_picture_its_own_and_holds_the_last(
    pictures, model, image, raw_adapter, clip_vision, tokens, render
):
    raw, host, given = raw_adapter(), model(), image(pictures)
    (patched,) = run(
        "IPAdapterBatch", model=host, ipadapter=raw, image=given, weight=[0.2, 0.9],
        clip_vision=clip_vision, encode_batch_size=2,
    )  # fmt: skip
    cond, uncond = tokens(given)
    weights = {t: [0.2, 0.9] for t in range(16)}
    expected = plain_prompt(host, SD1, raw, cond, uncond, weights, unfold=True)
    near(render(patched, batch=4), render(expected, batch=4))


def test_a_list_of_weights_gives_its_first_where_pictures_are_joined(
    model, image, raw_adapter, clip_vision, render
):
    values = {"model": model(), "ipadapter": raw_adapter(), "image": image(2),
              "clip_vision": clip_vision}  # fmt: skip
    (patched,) = run("IPAdapterAdvanced", weight=[0.3, 0.9], **values)
    (same,) = run("IPAdapterAdvanced", weight=0.3, **values)
    assert torch.equal(render(patched), render(same))


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("family", STRUCTURES)
def test_style_of_one_picture_and_composition_of_another(
    family, expand, model, image, raw_adapter, clip_vision, tokens, render
):
    structure = STRUCTURES[family]
    raw, host = raw_adapter("plus", structure), model(structure)
    first, second = image(seed=1), image(seed=2)
    (patched,) = run(
        "IPAdapterStyleComposition", model=host, ipadapter=raw, image_style=first,
        image_composition=second, weight_style=0.6, weight_composition=1.2, expand_style=expand,
        clip_vision=clip_vision,
    )  # fmt: skip
    style, _ = weights_of(family, "strong style transfer" if expand else "style transfer", 0.6)
    arranged, _ = weights_of(family, "composition", 1.2)
    expected = plain_prompt(host, structure, raw, *tokens(first, "plus", structure), style)
    expected = plain_prompt(expected, structure, raw, *tokens(second, "plus", structure), arranged)
    near(render(patched, structure), render(expected, structure))


@pytest.mark.parametrize("batch", ["", "Batch"])
@pytest.mark.parametrize("family", STRUCTURES)
def test_precise_nodes(family, batch, model, image, raw_adapter, clip_vision, tokens, render):
    structure = STRUCTURES[family]
    raw, host, given = raw_adapter("plus", structure), model(structure), image(2 if batch else 1)
    values = {"model": host, "ipadapter": raw, "image": given, "weight": 0.7,
              "clip_vision": clip_vision}  # fmt: skip
    (style,) = run(f"IPAdapterPreciseStyleTransfer{batch}", style_boost=1.5, **values)
    (arranged,) = run(f"IPAdapterPreciseComposition{batch}", composition_boost=-0.5, **values)
    for patched, name, weight, other in (
        (style, "style transfer precise", 0.7, 1.5),
        (arranged, "composition precise", -0.5, 0.7),
    ):
        weights, away = weights_of(family, name, weight, other)
        expected = plain_prompt(host, structure, raw, *tokens(given, "plus", structure), weights,
                                away=away, unfold=bool(batch))  # fmt: skip
        near(render(patched, structure, batch=2), render(expected, structure, batch=2))


def test_layers_weighed_by_hand(model, image, raw_adapter, clip_vision, tokens, render, caplog):
    raw, host = raw_adapter("plus", SDXL), model(SDXL)
    values = {"model": host, "ipadapter": raw, "image": image(), "weight": 0.5,
              "clip_vision": clip_vision}  # fmt: skip
    pair = tokens(image(), "plus", SDXL)
    weights = {3: 1.0, 6: 0.25, 9: -0.5}
    text = "3:2.0, 6:0.5,\n9:-1, 11:0.7"
    for weight_type, away in (("linear", ()), ("style transfer precise", (3,)),
                              ("composition precise", (6, 9))):  # fmt: skip
        (patched,) = run("IPAdapterMS", layer_weights=text, weight_type=weight_type, **values)
        expected = plain_prompt(host, SDXL, raw, *pair, weights, away=away)
        near(render(patched, SDXL), render(expected, SDXL))
    assert "11:0.7 left out; SDXL has spatial transformers 0 to 10" in caplog.text
    with pytest.raises(ValueError, match="layer_weights: expected 't:weight"):
        run("IPAdapterMS", layer_weights="linear", **values)


@pytest.mark.parametrize("mode", ["concat", "add", "subtract", "average", "norm average"])
def test_pictures_combine(mode, model, image, raw_adapter, clip_vision, tokens, render):
    raw, host, given = raw_adapter(), model(), image(3)
    (patched,) = run(
        "IPAdapterAdvanced", model=host, ipadapter=raw, image=given, combine_embeds=mode,
        clip_vision=clip_vision,
    )  # fmt: skip
    weights, _ = weights_of("SD1", "linear", 1.0)
    cond, uncond = tokens(given, combine=mode)
    near(render(patched), render(plain_prompt(host, SD1, raw, cond, uncond, weights)))


def test_a_negative_picture_counts(model, image, raw_adapter, clip_vision, tokens, render):
    raw, host, negative = raw_adapter("plus"), model(), image(seed=9)
    (patched,) = run(
        "IPAdapterAdvanced", model=host, ipadapter=raw, image=image(), image_negative=negative,
        clip_vision=clip_vision,
    )  # fmt: skip
    weights, _ = weights_of("SD1", "linear", 1.0)
    pair = tokens(image(), "plus", negative=negative)
    near(render(patched), render(plain_prompt(host, SD1, raw, *pair, weights)))


def test_nothing_changes_at_weight_zero_or_without_time(model, image, raw_adapter, clip_vision,
                                                        render):  # fmt: skip
    host = model()
    values = {"model": host, "ipadapter": raw_adapter(), "image": image(),
              "clip_vision": clip_vision}  # fmt: skip
    for settings in ({"weight": 0.0}, {"start_at": 1.0}, {"end_at": 0.0}):
        (patched,) = run("IPAdapterAdvanced", **values, **settings)
        assert torch.equal(render(patched), render(host))


def test_running_again_gives_the_same(model, image, raw_adapter, clip_vision, render):
    first = run("IPAdapterAdvanced", model=model(), ipadapter=raw_adapter(), image=image(),
                clip_vision=clip_vision)[0]  # fmt: skip
    values = {"model": first, "ipadapter": raw_adapter("plus"), "image": image(seed=4),
              "clip_vision": clip_vision}  # fmt: skip
    pictures = [render(run("IPAdapterAdvanced", **values)[0]) for _ in range(3)]
    assert all(torch.equal(pictures[0], other) for other in pictures[1:])
    assert not torch.equal(pictures[0], render(first))


def test_a_third_kind_of_conditioning_gets_the_picture(model, image, raw_adapter, clip_vision,
                                                       render):  # fmt: skip
    host = model()
    (patched,) = run("IPAdapterAdvanced", model=host, ipadapter=raw_adapter(), image=image(),
                     clip_vision=clip_vision)  # fmt: skip

    def three(m):
        x, contexts = make_inputs(SD1, size=(8, 8))
        return m.apply(x, 5.0, contexts | {2: contexts[0]}, [0, 1, 2])

    cond, _, third = three(patched)
    near(third, cond)


def test_unknown_weight_type_is_named(raw_adapter):
    with pytest.raises(ValueError, match=r"weight_type: expected one of 'linear'.*got 'steep'"):
        split_by_weight_type(None, "steep")


def test_nodes_run_without_autograd_as_the_host_has_it(
    model, image, raw_adapter, clip_vision, render
):
    """The host runs nodes in inference mode; what they made works outside of it as well."""
    host, raw = model(), raw_adapter("plus")
    values = {"model": host, "ipadapter": raw, "clip_vision": clip_vision}
    with torch.inference_mode():
        (patched,) = run("IPAdapterAdvanced", image=image(), **values)
        inside = render(patched)
    assert torch.equal(render(patched), inside)
    (outside,) = run("IPAdapterAdvanced", image=image(), **values)
    near(render(outside), inside)


def test_prompts_of_one_node_share_their_tensors(model, image, raw_adapter, clip_vision):
    values = {"model": model(), "ipadapter": raw_adapter("plus"), "image": image(),
              "clip_vision": clip_vision}  # fmt: skip
    (whole,) = run("IPAdapterAdvanced", **values)
    (split,) = run("IPAdapterAdvanced", weight_type="composition precise", **values)
    sizes = {attnpatch.report(m).nbytes for m in (whole, split)}
    assert len(sizes) == 1 and sizes != {0}


def test_a_changed_weight_projects_nothing_anew(
    model, image, raw_adapter, clip_vision, render, monkeypatch
):
    counted = []
    project = attnpatch.ImageAdapter.project_sites
    monkeypatch.setattr(
        attnpatch.ImageAdapter,
        "project_sites",
        lambda self, tokens: counted.append(1) or project(self, tokens),
    )
    values = {"model": model(), "ipadapter": raw_adapter(), "clip_vision": clip_vision}
    given = image(2, seed=77)
    first = [run("IPAdapterAdvanced", image=given, weight=w, **values)[0] for w in (0.4, 0.9)]
    assert len(counted) == 1
    assert not torch.equal(render(first[0]), render(first[1]))
    run("IPAdapterAdvanced", image=given, combine_embeds="average", **values)
    run("IPAdapterBatch", image=given, **values)
    run("IPAdapterAdvanced", image=image(2, seed=78), **values)
    assert len(counted) == 4
    run("IPAdapterBatch", image=image(9, seed=79), **values)
    run("IPAdapterBatch", image=image(9, seed=79), **values)
    assert len(counted) == 6  # many pictures are not kept
