# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image tokens as a value, and their files."""

import copy
import pickle

import pytest
import torch
from fake_adapters import ROWS, Maker, make_state
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from attnpatch.adapters import (
    ImageEmbeds,
    describe,
    load_embeds,
    load_features,
    load_image_adapter,
    save_features,
)

LINEAR = load_image_adapter(make_state(ROWS[0]))
PLUS = load_image_adapter(make_state(next(row for row in ROWS if row.kind == "plus")))
FACE = load_image_adapter(make_state(next(row for row in ROWS if row.kind == "faceid")))


@given(
    rows=st.integers(1, 3),
    tokens=st.integers(1, 6),
    size=st.integers(1, 8),
    shared=st.booleans(),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_saving_keeps_everything(tmp_path_factory, rows, tokens, size, shared, dtype, metadata):
    cond = Maker(1).randn(size, tokens, rows).permute(2, 1, 0).to(dtype)
    embeds = ImageEmbeds(cond, cond[:1] if shared else cond, metadata)
    path = tmp_path_factory.mktemp("embeds") / "face.safetensors"
    embeds.save(path)
    for again in (load_embeds(path), pickle.loads(pickle.dumps(embeds))):
        assert again == embeds
        assert hash(again) == hash(embeds)
        assert (again.pictures, again.tokens, again.context_dim) == (rows, tokens, size)


def test_face_embeds_can_be_saved(tmp_path):
    embeds = FACE.get_image_embeds(torch.nn.functional.normalize(torch.ones(2, 512)))
    embeds.save(tmp_path / "face.safetensors")
    again = load_embeds(tmp_path / "face.safetensors", FACE)
    assert again == embeds
    assert again.metadata == {
        "kind": "faceid",
        "family": "custom",
        "context_dim": "24",
        "tokens": "4",
        "pictures": "2",
        "combine": "concat",
        "uncond": "zeros",
        "digest": FACE.digest,
    }
    text = describe(tmp_path / "face.safetensors")
    assert text.startswith("face.safetensors: image tokens\n")
    assert f"  digest         {FACE.digest}\n" in text
    half = load_embeds(tmp_path / "face.safetensors", dtype=torch.float16)
    assert half == embeds.to(dtype=torch.float16) != embeds
    with pytest.raises(
        ValueError, match=r"made by another adapter \(faceid, \w{12}\) than the one"
    ):
        load_embeds(tmp_path / "face.safetensors", LINEAR)


def test_is_a_frozen_value():
    embeds = LINEAR.get_image_embeds(torch.ones(1, 1024))
    assert copy.deepcopy(embeds) is embeds
    assert embeds != LINEAR.get_image_embeds(torch.ones(1, 1024) * 2)
    assert embeds != 3
    with pytest.raises(AttributeError):
        embeds.cond = None
    with pytest.raises(TypeError):
        embeds.metadata["kind"] = "plus"
    assert repr(embeds) == "ImageEmbeds(linear: 1 x 4 tokens of 24, float32 on cpu)"


@pytest.mark.parametrize(
    ("cond", "uncond", "message"),
    [
        ((2, 4, 8), (3, 4, 8), r"uncond: expected \(1 or 2, 4, 8\) .*, got \(3, 4, 8\)"),
        ((2, 4, 8), (1, 5, 8), r"got \(1, 5, 8\)"),
        ((2, 4, 8), (1, 4, 9), r"got \(1, 4, 9\)"),
        ((4, 8), (1, 4, 8), r"cond: expected floating-point tokens .*, got \(4, 8\)"),
        ((0, 4, 8), (1, 4, 8), "cond: expected"),
        ((1, 4, 8), (1, 0, 8), "uncond: expected"),
    ],
)  # fmt: skip
def test_shapes_must_go_together(cond, uncond, message):
    with pytest.raises(ValueError, match=message):
        ImageEmbeds(torch.zeros(cond), torch.zeros(uncond))


def test_only_floating_tensors():
    with pytest.raises(TypeError, match="uncond: expected a tensor, got NoneType"):
        ImageEmbeds(torch.zeros(1, 2, 3), None)
    with pytest.raises(ValueError, match="cond: expected floating-point tokens"):
        ImageEmbeds(torch.zeros(1, 2, 3, dtype=int), torch.zeros(1, 2, 3))


class TestForeignFiles:
    """`.ipadpt`: one tensor, or a list of one with negatives first and a dimension for images."""

    def save(self, tmp_path, content):
        torch.save(content, tmp_path / "face.ipadpt")
        return tmp_path / "face.ipadpt"

    @pytest.mark.parametrize("adapter", [LINEAR, PLUS], ids=["pooled", "hidden"])
    def test_both_forms(self, adapter, tmp_path):
        size = adapter.embed_dim
        shape = (2, size) if adapter is LINEAR else (2, 3, size)
        image = Maker(1).randn(*shape)
        expected = adapter.get_image_embeds(image)
        assert load_embeds(self.save(tmp_path, image), adapter) == expected
        listed = [image[None]]
        assert load_embeds(self.save(tmp_path, listed), adapter) == expected
        negative = Maker(2).randn(*shape)
        listed = [torch.stack([negative, image])]
        expected = adapter.get_image_embeds(image, negative)
        assert load_embeds(self.save(tmp_path, listed), adapter) == expected
        half = load_embeds(self.save(tmp_path, listed), adapter, dtype=torch.float16)
        assert half == expected.to(dtype=torch.float16)

    def test_need_an_adapter(self, tmp_path):
        path = self.save(tmp_path, torch.ones(1, 1024))
        with pytest.raises(ValueError, match=r"face\.ipadpt: no image tokens of ours.*the adapter"):
            load_embeds(path)
        with pytest.raises(ValueError, match="image: this plus adapter takes"):
            load_embeds(path, PLUS)

    @pytest.mark.parametrize("content", [{"a": torch.ones(1)}, [], [torch.ones(3)], [1, 2]])
    def test_of_another_form(self, content, tmp_path):
        with pytest.raises(ValueError, match=r"face\.ipadpt: expected a tensor, or a list of one"):
            load_embeds(self.save(tmp_path, content), LINEAR)

    def test_with_code(self, tmp_path):
        trap = tmp_path / "trap"
        path = self.save(tmp_path, [Trap(str(trap))])
        with pytest.raises(ValueError, match=r"face\.ipadpt: refused, since it holds more than"):
            load_embeds(path, LINEAR)
        assert not trap.exists()


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "its metadata do not say attnpatch.image_embeds"),
        ({"format": "attnpatch.image_embeds", "format_version": "2"}, "format version '2'"),
    ],
)
def test_files_of_another_format(metadata, message, tmp_path):
    path = tmp_path / "a.safetensors"
    tokens = torch.ones(1, 2, 3)
    save_file({"cond": tokens, "uncond": tokens.clone()}, path, metadata)
    with pytest.raises(ValueError, match=rf"a\.safetensors: {message}"):
        load_embeds(path)


@pytest.mark.parametrize("shape", [(2, 1024), (2, 5, 8)])
def test_features_to_a_file_and_back(shape, tmp_path):
    features = Maker(3).randn(*shape)
    save_features(tmp_path / "a.safetensors", features)
    image, negative = load_features(tmp_path / "a.safetensors")
    assert torch.equal(image, features) and negative is None
    if len(shape) == 2:
        adapter = LINEAR
        assert load_embeds(tmp_path / "a.safetensors", adapter) == adapter.get_image_embeds(image)


def test_features_of_other_tools(tmp_path):
    pair = Maker(4).randn(2, 1, 1024)
    torch.save([pair], tmp_path / "face.ipadpt")
    image, negative = load_features(tmp_path / "face.ipadpt")
    assert torch.equal(image, pair[1]) and torch.equal(negative, pair[0])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_files_with_values_that_are_not_finite(value, tmp_path):
    path = tmp_path / "file.safetensors"
    whole = LINEAR.get_image_embeds(torch.ones(1, LINEAR.embed_dim))
    for part in ("cond", "uncond"):
        tensors = {"cond": whole.cond.clone(), "uncond": whole.uncond.clone()}
        tensors[part][0, -1, -1] = value
        ImageEmbeds(**tensors).save(path)
        with pytest.raises(ValueError, match=rf"^file\.safetensors: {part}: expected finite"):
            load_embeds(path)
    features = torch.ones(2, LINEAR.embed_dim)
    features[1, 3] = value
    save_features(path, features)
    for read in (load_features, lambda path: load_embeds(path, LINEAR)):
        with pytest.raises(ValueError, match=r"^file\.safetensors: image: expected finite"):
            read(path)
    torch.save([torch.stack([features, torch.ones_like(features)])], path)  # the negatives first
    with pytest.raises(ValueError, match=r"^file\.safetensors: negative: expected finite"):
        load_features(path)
