# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Encoding, combining, saving, loading and applying features; encoding itself."""

import os

import pytest
import torch
from running import near, run

from attnpatch import load_image_adapter
from attnpatch.nodes import NODE_CLASS_MAPPINGS
from attnpatch.nodes.ipadapter.encoding import blend_mask, encode, encode_black


@pytest.mark.parametrize("kind", ["linear", "plus"])
@pytest.mark.parametrize("batch", ["", "Batch"])
def test_features_give_what_pictures_give(kind, batch, model, image, raw_adapter, clip_vision,
                                          render):  # fmt: skip
    host, raw, given = model(), raw_adapter(kind), image(2)
    positive, negative = run("IPAdapterEncoder", ipadapter=raw, image=given,
                             clip_vision=clip_vision)  # fmt: skip
    values = {"model": host, "ipadapter": raw, "weight": 0.6}
    (wanted,) = run(f"IPAdapter{batch or 'Advanced'}", image=given, clip_vision=clip_vision,
                    **values)  # fmt: skip
    (patched,) = run(f"IPAdapterEmbeds{batch}", pos_embed=positive, neg_embed=negative, **values)
    near(render(patched, batch=2), render(wanted, batch=2))
    (patched,) = run(f"IPAdapterEmbeds{batch}", pos_embed=positive, clip_vision=clip_vision,
                     **values)  # fmt: skip
    near(render(patched, batch=2), render(wanted, batch=2))


def test_encoder_weighs_and_masks(raw_adapter, image, clip_vision):
    values = {"ipadapter": raw_adapter("plus"), "clip_vision": clip_vision}
    whole, negative = run("IPAdapterEncoder", image=image(), **values)
    half, same = run("IPAdapterEncoder", image=image(), weight=0.5, **values)
    near(half, whole / 2)
    near(same, negative)
    mask = torch.zeros(1, 32, 32)
    mask[:, :, :16] = 1
    hidden, _ = run("IPAdapterEncoder", image=image(), mask=mask, **values)
    assert not torch.allclose(hidden, whole)
    left, right = blend_mask(image(), mask).chunk(2, dim=2)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    near(right[:, :, 8:], mean.expand_as(right[:, :, 8:]))
    near(left[:, :, :-8], blend_mask(image(), torch.ones(1, 32, 32))[:, :, :104])


def test_face_adapters_are_not_encoded_alone(raw_adapter, image, clip_vision):
    with pytest.raises(ValueError, match=r"ipadapter: this faceid adapter takes .*FaceID"):
        run("IPAdapterEncoder", ipadapter=raw_adapter("faceid"), image=image(),
            clip_vision=clip_vision)  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 8), (2, 5, 8)])
def test_combine(shape):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(*shape, generator=generator) for _ in range(3)]
    every = torch.cat(parts)
    expected = {
        "concat": every,
        "add": every.sum(0, keepdim=True),
        "subtract": every[:1] - every[1:].mean(0, keepdim=True),
        "average": every.mean(0, keepdim=True),
        "norm average": (every / every.norm(dim=-1, keepdim=True)).mean(0, keepdim=True),
        "max": every.amax(0, keepdim=True),
        "min": every.amin(0, keepdim=True),
    }
    values = {"embed1": parts[0], "embed2": parts[1], "embed4": parts[2]}
    for method, wanted in expected.items():
        near(run("IPAdapterCombineEmbeds", method=method, **values)[0], wanted)
    quirky = (every / every.norm(dim=0, keepdim=True)).mean(0, keepdim=True)
    found = run("IPAdapterCombineEmbeds", method="norm average", reference_quirks=True, **values)
    near(found[0], quirky)
    assert torch.equal(run("IPAdapterCombineEmbeds", embed1=parts[0])[0], parts[0])


def test_combine_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"embed2: expected .*\(pictures, 8\).*got \(1, 9\)"):
        run("IPAdapterCombineEmbeds", embed1=torch.ones(1, 8), embed2=torch.ones(1, 9))
    with pytest.raises(TypeError, match=r"embed1: expected features .*got str"):
        run("IPAdapterCombineEmbeds", embed1="x")


def test_save_and_load(folders, image, raw_adapter, clip_vision):
    positive, _ = run("IPAdapterEncoder", ipadapter=raw_adapter("plus"), image=image(2),
                      clip_vision=clip_vision)  # fmt: skip
    shown = [run("IPAdapterSaveEmbeds", embeds=positive)["ui"]["text"] for _ in range(2)]
    assert shown == [
        ("saved IP_embeds_00001_.safetensors",),
        ("saved IP_embeds_00002_.safetensors",),
    ]
    loader = NODE_CLASS_MAPPINGS["IPAdapterLoadEmbeds"]
    names = loader.INPUT_TYPES()["required"]["embeds"][0]
    assert names == [f"IP_embeds_0000{n}_.safetensors [output]" for n in (1, 2)]
    assert torch.equal(run("IPAdapterLoadEmbeds", embeds=names[0])[0], positive)
    assert loader.VALIDATE_INPUTS(embeds=names[0]) is True
    before = loader.IS_CHANGED(embeds=names[0])
    os.utime(folders.root / "output" / names[0].split()[0], ns=(1, 1))
    assert loader.IS_CHANGED(embeds=names[0]) != before


def test_tokens_are_saved_and_applied(folders, image, model, raw_adapter, clip_vision, render):
    raw, host = raw_adapter(), model()
    adapter = load_image_adapter(raw)
    features = clip_vision.encode_image(image()).image_embeds
    tokens = adapter.get_image_embeds(features)
    run("IPAdapterSaveEmbeds", embeds=tokens, filename_prefix="tokens")
    (loaded,) = run("IPAdapterLoadEmbeds", embeds="tokens_00001_.safetensors [output]")
    assert loaded == tokens
    (patched,) = run("IPAdapterEmbeds", model=host, ipadapter=raw, pos_embed=loaded)
    (wanted,) = run("IPAdapterEmbeds", model=host, ipadapter=raw, pos_embed=features)
    near(render(patched), render(wanted))


def test_old_files_load_but_never_run(folders):
    features = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    (folders.root / "input" / "sub").mkdir()
    torch.save(features, folders.root / "input" / "sub" / "old.ipadpt")
    torch.save({"run": print}, folders.root / "input" / "bad.ipadpt")
    names = NODE_CLASS_MAPPINGS["IPAdapterLoadEmbeds"].INPUT_TYPES()["required"]["embeds"][0]
    assert names == ["bad.ipadpt", "sub/old.ipadpt"]
    assert torch.equal(run("IPAdapterLoadEmbeds", embeds="sub/old.ipadpt")[0], features)
    with pytest.raises(ValueError, match=r"bad\.ipadpt: refused"):
        run("IPAdapterLoadEmbeds", embeds="bad.ipadpt")


@pytest.mark.parametrize("name", ["gone.ipadpt", "../secret.safetensors"])
def test_files_outside_are_not_found(folders, name):
    (folders.root / "secret.safetensors").write_bytes(b"")
    found = NODE_CLASS_MAPPINGS["IPAdapterLoadEmbeds"].VALIDATE_INPUTS(embeds=name)
    assert found.startswith(f"embeds: no file {name!r} in ")


def test_folders_that_are_not_there_list_nothing(folders):
    for name in ("input", "output"):
        (folders.root / name).rename(folders.root / f"gone {name}")
    assert NODE_CLASS_MAPPINGS["IPAdapterLoadEmbeds"].INPUT_TYPES()["required"]["embeds"][0] == []


def test_lists_are_empty_without_a_host():
    assert NODE_CLASS_MAPPINGS["IPAdapterLoadEmbeds"].INPUT_TYPES()["required"]["embeds"][0] == []


def test_encode_in_parts_gives_the_same(image, clip_vision):
    whole = encode(clip_vision, image(5), "hidden")
    near(encode(clip_vision, image(5), "hidden", batch_size=2), whole)
    assert [seen[0] for seen in clip_vision.seen] == [5, 2, 2, 1]


@pytest.mark.parametrize("form", ["pooled", "hidden"])
def test_black_is_encoded_once(form, clip_vision):
    assert encode_black(clip_vision, form) is encode_black(clip_vision, form)
    assert clip_vision.seen == [(1, 224, 224, 3)]


def test_tiles_are_pooled_to_one_grid(image, clip_vision):
    """Tiles of 16×16 pixels with 4×4 patches pool to what 8×8 pixels give on average."""
    given = image(1, 32, 33)
    features = encode(clip_vision, given, "hidden", tiles=2, ratio=0.25)
    assert features.shape == (2, 17, 40)
    near(features[0], 0.25 * encode(clip_vision, given, "hidden")[0])
    near(features[1:, 1:], encode(clip_vision, given[:, :, :32], "hidden")[:, 1:])
    both = encode(clip_vision, image(2), "hidden", tiles=2, ratio=0.25)
    near(both, encode(clip_vision, image(2), "hidden"))
    pooled = encode(clip_vision, image(2), "pooled", tiles=2, ratio=0.0)
    assert pooled.shape == (2, 1024)
    tile = encode(clip_vision, image(2)[:, :16, :16], "pooled")
    assert not torch.allclose(pooled, tile, atol=1e-3)


def test_too_many_tiles_are_refused(image, clip_vision):
    with pytest.raises(ValueError, match="enhance_tiles: 16 a side"):
        encode(clip_vision, image(1, 8, 64), "hidden", tiles=16)
