# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image tokens of features, what several pictures become, and the adapter as a value."""

import copy
import pickle
from types import SimpleNamespace

import numpy
import pytest
import torch
from fake_adapters import ROWS, Maker, make_state, random_state_kept, save_state
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch.adapters import describe, load_embeds, load_image_adapter
from attnpatch.adapters.combine import COMBINE_MODES

KINDS = {row.kind: row for row in reversed(ROWS)}  # the first row of each
ADAPTERS = {kind: load_image_adapter(make_state(row), kind=kind) for kind, row in KINDS.items()}
every_kind = pytest.mark.parametrize("kind", ADAPTERS)
pictures = st.integers(1, 4)


def features(adapter, count, seed=0):
    """Random features of `count` pictures, as the adapter takes them."""
    parts = []
    for takes in adapter.takes:
        shape = (count, 5, takes.size) if takes.form == "hidden" else (count, takes.size)
        x = Maker(seed).randn(*shape)
        parts.append(torch.nn.functional.normalize(x, dim=-1) if takes.face == "normalised" else x)
    return parts[0] if len(parts) == 1 else tuple(parts)


def pick(image, index):
    if isinstance(image, tuple):
        return tuple(part[index] for part in image)
    return image[index]


def tokens_of(adapter):
    return 5 if adapter.kind == "full_face" else adapter.tokens


@every_kind
@given(count=pictures, seed=st.integers(0, 9))
@settings(max_examples=8, deadline=None)
def test_a_batch_is_its_pictures_one_by_one(kind, count, seed):
    adapter = ADAPTERS[kind]
    image = features(adapter, count, seed)
    with random_state_kept():
        whole = adapter.get_image_embeds(image, combine="batch")
        single = [adapter.get_image_embeds(pick(image, slice(i, i + 1))) for i in range(count)]
    assert whole.cond.shape == (count, tokens_of(adapter), adapter.context_dim)
    assert whole.uncond.shape == (1, tokens_of(adapter), adapter.context_dim)
    torch.testing.assert_close(whole.cond, torch.cat([e.cond for e in single]))
    assert whole == adapter.get_image_embeds(image, combine=None)


@every_kind
@given(count=pictures)
@settings(max_examples=5, deadline=None)
def test_concat_joins_the_tokens_of_a_batch(kind, count):
    adapter = ADAPTERS[kind]
    image, negative = features(adapter, count), features(adapter, count, seed=1)
    batch = adapter.get_image_embeds(image, negative, combine="batch")
    joined = adapter.get_image_embeds(image, negative, combine="concat")
    assert joined.cond.shape == (1, count * tokens_of(adapter), adapter.context_dim)
    assert torch.equal(joined.cond[0], batch.cond.flatten(0, 1))
    assert torch.equal(joined.uncond[0], batch.uncond.flatten(0, 1))
    one = adapter.get_image_embeds(image, pick(negative, slice(0, 1)))
    torch.testing.assert_close(one.uncond[0], batch.uncond[:1].expand(count, -1, -1).flatten(0, 1))


REDUCED = {
    "add": lambda x: x.sum(0),
    "subtract": lambda x: x[0] - x[1:].mean(0),
    "average": lambda x: x.mean(0),
    "norm average": lambda x: (x / x.square().sum(-1, keepdim=True).sqrt()).mean(0),
    "max": lambda x: x.max(0).values,
    "min": lambda x: x.min(0).values,
}


@every_kind
@pytest.mark.parametrize("combine", REDUCED)
def test_reducing_modes_combine_features_before_the_projection(kind, combine):
    adapter = ADAPTERS[kind]
    image, negative = features(adapter, 3), features(adapter, 3, seed=1)

    def reduce(parts):
        return tuple(REDUCED[combine](part)[None] for part in parts)

    parts = [x if isinstance(x, tuple) else (x,) for x in (image, negative)]
    reduced = [reduce(x) if len(x) == 2 else reduce(x)[0] for x in parts]
    ours = adapter.get_image_embeds(image, negative, combine=combine)
    expected = adapter.get_image_embeds(*reduced)
    torch.testing.assert_close(ours.cond, expected.cond)
    torch.testing.assert_close(ours.uncond, expected.uncond)
    assert ours.metadata["combine"] == combine


@given(count=pictures, mode=st.sampled_from(["add", "average", "max", "min", "norm average"]))
@settings(max_examples=20, deadline=None)
def test_order_of_pictures_does_not_matter_to_symmetric_modes(count, mode):
    adapter = ADAPTERS["plus"]
    image = features(adapter, count)
    a, b = (adapter.get_image_embeds(x, combine=mode) for x in (image, image.flip(0)))
    torch.testing.assert_close(a.cond, b.cond)


def test_norm_average_as_other_tools_do_it():
    adapter = ADAPTERS["instantid"]
    image = features(adapter, 3)
    expected = (image / torch.linalg.vector_norm(image, dim=0)).mean(0, keepdim=True)
    quirky = adapter.get_image_embeds(
        image, combine="norm average", compat="comfyui_ipadapter_plus"
    )
    torch.testing.assert_close(quirky.cond, adapter.get_image_embeds(expected).cond)


@pytest.mark.parametrize("mode", ["add", "subtract", "average", "norm average"])
def test_negatives_as_other_tools_take_them(mode):
    adapter = ADAPTERS["instantid"]
    image, negative = features(adapter, 3), features(adapter, 3)
    quirky = adapter.get_image_embeds(
        image, negative, combine=mode, compat="comfyui_ipadapter_plus"
    )
    first = adapter.get_image_embeds(image[:1], negative[:1])
    torch.testing.assert_close(quirky.uncond, first.uncond)


def test_one_picture_is_itself_in_every_mode():
    adapter = ADAPTERS["plus"]
    image = features(adapter, 1)
    expected = adapter.get_image_embeds(image).cond
    for mode in set(COMBINE_MODES) - {"norm average"}:
        assert torch.equal(adapter.get_image_embeds(image, combine=mode).cond, expected)


class TestNegative:
    @every_kind
    def test_default_is_zeros(self, kind, caplog):
        adapter = ADAPTERS[kind]
        image = features(adapter, 2)
        zeros = pick(image, slice(0, 1))
        zeros = (
            tuple(torch.zeros_like(z) for z in zeros)
            if isinstance(zeros, tuple)
            else torch.zeros_like(zeros)
        )
        ours = adapter.get_image_embeds(image, combine="batch")
        told = "hidden states of an empty picture" in caplog.text
        assert told is any(takes.form == "hidden" for takes in adapter.takes)
        given = adapter.get_image_embeds(image, zeros, combine="batch")
        assert torch.equal(ours.uncond, given.uncond)
        assert (ours.metadata["uncond"], given.metadata["uncond"]) == ("zeros", "given")

    def test_face_plus_takes_hidden_states_alone(self):
        adapter = ADAPTERS["faceid_plus_v2"]
        image, (face, hidden) = features(adapter, 2), features(adapter, 1, seed=1)
        a, b, c = (
            adapter.get_image_embeds(image, negative, combine=None).uncond
            for negative in (hidden, (None, hidden), (torch.zeros_like(face), hidden))
        )
        assert torch.equal(a, b) and torch.equal(b, c)

    def test_number_of_negatives(self):
        adapter = ADAPTERS["linear"]
        with pytest.raises(ValueError, match="negative: expected 1 or 3 pictures, got 2"):
            adapter.get_image_embeds(features(adapter, 3), features(adapter, 2))


class TestShortcut:
    def test_versions_differ_by_the_shortcut(self):
        state = make_state(KINDS["faceid_plus"])
        first = load_image_adapter(state, shortcut=False)
        second = load_image_adapter(state, shortcut=True)
        image = features(first, 2)
        out = first.get_image_embeds(image).cond
        plain, half = (
            second.get_image_embeds(image, shortcut_scale=scale).cond for scale in (1.0, 0.5)
        )
        tokens = second.get_image_embeds(image, shortcut_scale=0.0).cond
        torch.testing.assert_close(plain, tokens + out)
        torch.testing.assert_close(half, tokens + 0.5 * out)
        with pytest.raises(ValueError, match="only faceid_plus_v2 has one; this is faceid_plus"):
            first.get_image_embeds(image, shortcut_scale=0.5)

    def test_one_part_may_serve_all_pictures(self):
        adapter = ADAPTERS["faceid_plus"]
        face, hidden = features(adapter, 3)
        ours = adapter.get_image_embeds((face[:1], hidden), combine=None)
        same = adapter.get_image_embeds((face[:1].expand(3, -1), hidden), combine=None)
        assert torch.equal(ours.cond, same.cond)
        with pytest.raises(ValueError, match="image: its parts have 2 and 3 pictures"):
            adapter.get_image_embeds((face[:2], hidden))


H, G, L = 1280, 1664, 1024
WRONG = [
    ("plus", (1, 257, G), r"1280\).*CLIP ViT-H/14, got \(1, 257, 1664\), which looks like hidden "
     r"states of CLIP ViT-bigG/14\. Encode with CLIP ViT-H/14, or use an adapter made for CLIP "
     "ViT-bigG/14"),
    ("plus", (1, 257, L), r"hidden states of CLIP ViT-L/14\. Encode with CLIP ViT-H/14"),
    ("plus", (1, 577, L), r"hidden states of CLIP ViT-L/14-336\. Encode with"),
    ("plus", (1, 1024), r"image embeds of CLIP ViT-H/14\. Pass the tower's hidden_states\[-2\]"),
    ("plus", (1, 257, 7), r"got \(1, 257, 7\)\.$"),
    ("plus", (0, 257, H), r"got \(0, 257, 1280\)"),
    ("linear", (1, 1280), r"CLIP ViT-H/14, got \(1, 1280\), "
     r"which looks like image embeds of CLIP ViT-bigG/14\. Encode with CLIP ViT-H/14"),
    ("linear", (1, 257, H), r"hidden states of CLIP ViT-H/14\. Pass the tower's image_embeds"),
    ("linear", (1024,), r"got \(1024,\)"),
    ("faceid", (1, 1024), r"normalised face embeddings \(P, 512\): ArcFace .*, got"),
    ("instantid", (1, 257, H), r"raw face embeddings \(P, 512\)"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "shape", "message"), WRONG)
def test_a_wrong_encoder_is_named(kind, shape, message):
    adapter = load_image_adapter(make_state(KINDS[kind], full=True))
    with pytest.raises(ValueError, match=rf"^image: this {kind} adapter takes .*{message}"):
        adapter.get_image_embeds(torch.zeros(shape))


class TestInputs:
    adapter = ADAPTERS["linear"]
    image = Maker(5).randn(2, 1024)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_must_be_finite(self, value):
        image = self.image.clone()
        image[1, 3] = value
        with pytest.raises(ValueError, match="image: expected finite values, got NaN"):
            self.adapter.get_image_embeds(image)

    def test_arrays_and_encoder_outputs(self):
        expected = self.adapter.get_image_embeds(self.image)
        array = self.image.numpy().copy()
        array.flags.writeable = False
        output = SimpleNamespace(image_embeds=self.image, hidden_states=None)
        for image in (array, output, self.image.double()):
            assert self.adapter.get_image_embeds(image) == expected
        strided = self.adapter.get_image_embeds(self.image.mT.contiguous().mT)
        torch.testing.assert_close(strided.cond, expected.cond)
        plus = ADAPTERS["plus"]
        states = features(plus, 2)
        expected = plus.get_image_embeds(states)
        transformers = SimpleNamespace(hidden_states=(None, states, None))
        comfyui = SimpleNamespace(penultimate_hidden_states=states, image_embeds=self.image)
        assert plus.get_image_embeds(transformers) == expected
        assert plus.get_image_embeds(comfyui) == expected

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            ("a.png", "image: expected an array of CLIP image embeds .*, got str"),
            ([1.0], "got list"),
            (torch.ones(2, 4, dtype=torch.uint8), "floating-point values, got torch.uint8"),
            (numpy.ones((2, 1024), int), "expected floating-point values"),
        ],
    )  # fmt: skip
    def test_what_is_no_array(self, image, message):
        with pytest.raises(TypeError, match=message):
            self.adapter.get_image_embeds(image)

    def test_pairs(self):
        adapter = ADAPTERS["faceid_plus"]
        with pytest.raises(TypeError, match=r"takes a pair of normalised face embeddings .* and"):
            adapter.get_image_embeds(features(adapter, 1)[0])

    def test_mode(self):
        with pytest.raises(ValueError, match="combine: expected one of concat, batch, add"):
            self.adapter.get_image_embeds(self.image, combine="mean")

    def test_lengths_of_face_embeddings(self, caplog):
        ADAPTERS["faceid"].get_image_embeds(torch.ones(1, 512))
        assert "normed_embedding" in caplog.text
        caplog.clear()
        ADAPTERS["instantid"].get_image_embeds(torch.nn.functional.normalize(torch.ones(1, 512)))
        assert "normalised to length 1" in caplog.text
        caplog.clear()
        ADAPTERS["faceid"].get_image_embeds(features(ADAPTERS["faceid"], 2))
        ADAPTERS["instantid"].get_image_embeds(features(ADAPTERS["instantid"], 2))
        assert not caplog.text


@given(
    rows=st.integers(0, 3),
    length=st.integers(0, 5),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
@settings(max_examples=20, deadline=None)
def test_project_sites(rows, length, dtype):
    adapter = ADAPTERS["linear"].to(dtype=dtype)
    tokens = Maker(3).randn(rows, length, adapter.context_dim)
    weights = make_state(KINDS["linear"])["ip_adapter"]
    result = adapter.project_sites(tokens)
    assert len(result) == adapter.site_count
    for n, (key, value) in enumerate(result):
        for letter, tensor in (("k", key), ("v", value)):
            weight = weights[f"{2 * n + 1}.to_{letter}_ip.weight"].to(dtype).double()
            assert tensor.shape == (rows, length, adapter.channels[n])
            assert tensor.dtype == dtype
            torch.testing.assert_close(
                tensor.double(),
                tokens.to(dtype if dtype == torch.float64 else torch.float32).double() @ weight.mT,
                atol=torch.finfo(dtype).eps * 8,
                rtol=torch.finfo(dtype).eps * 8,
            )


@every_kind
def test_the_global_random_generator_is_left_alone(kind, tmp_path):
    path = save_state(make_state(KINDS[kind]), tmp_path / "adapter.safetensors")
    with random_state_kept():
        adapter = load_image_adapter(path, kind=kind)
        describe(path)
        embeds = adapter.get_image_embeds(features(adapter, 2))
        adapter.project_sites(embeds.cond)
        embeds.save(tmp_path / "embeds.safetensors")
        load_embeds(tmp_path / "embeds.safetensors", adapter)


def test_tokens_of_another_model():
    row = next(row for row in ROWS if row.name == "ip-adapter_sdxl")
    adapter = load_image_adapter(make_state(row, full=True))
    message = r"this sdxl adapter takes \(R, M, 2048\) \(SDXL\), got \(1, 4, 768\) \(SD1\.x\)"
    with pytest.raises(ValueError, match=message):
        adapter.project_sites(torch.zeros(1, 4, 768))
    with pytest.raises(ValueError, match=r"got \(2048,\)"):
        adapter.project_sites(torch.zeros(2048))
    with pytest.raises(TypeError, match="tokens: expected a tensor, got list"):
        adapter.project_sites([1.0])


class TestValue:
    @every_kind
    def test_pickles_and_copies(self, kind):
        adapter = ADAPTERS[kind]
        again = pickle.loads(pickle.dumps(adapter))
        assert again == adapter and again is not adapter
        assert hash(again) == hash(adapter)
        assert (again.kind, again.digest) == (adapter.kind, adapter.digest)
        assert again.lora.keys() == adapter.lora.keys()
        image = features(adapter, 2)
        assert again.get_image_embeds(image) == adapter.get_image_embeds(image)
        assert copy.deepcopy(adapter) is adapter
        assert copy.copy(adapter) is adapter

    def test_is_immutable(self):
        adapter = ADAPTERS["linear"]
        with pytest.raises(AttributeError, match="immutable: kind can not be set"):
            adapter.kind = "plus"
        with pytest.raises(TypeError):
            adapter.lora["a"] = torch.ones(1)

    def test_does_not_touch_what_it_was_given(self):
        state = make_state(KINDS["plus"])
        before = {n: t.clone() for group in state.values() for n, t in group.items()}
        for tensors in state.values():
            for tensor in tensors.values():
                tensor.requires_grad_()
        with torch.no_grad():  # copies of the values
            adapter = load_image_adapter(state, dtype=torch.float16)
        embeds = adapter.get_image_embeds(features(adapter, 2))
        assert not embeds.cond.requires_grad
        assert all(torch.equal(t, before[n]) for g in state.values() for n, t in g.items())

    def test_copies_of_parameters_would_not_follow_an_optimiser(self):
        state = make_state(KINDS["linear"])
        state["ip_adapter"]["1.to_k_ip.weight"].requires_grad_()
        with pytest.raises(ValueError, match=r"dtype: expected cpu and torch.float32, .* gradient"):
            load_image_adapter(state, dtype=torch.float16)
        adapter = load_image_adapter(state, dtype=torch.float32)
        with pytest.raises(ValueError, match=r"got cpu and torch\.float64"):
            adapter.to(dtype=torch.float64)
        with torch.no_grad():
            weights = adapter.to(dtype=torch.float64).state_dict()["ip_adapter"].values()
        assert not any(weight.requires_grad for weight in weights)

    def test_equality_and_digest(self):
        state = make_state(KINDS["linear"])
        adapter = load_image_adapter(state)
        assert adapter == load_image_adapter(state)
        state["image_proj"]["proj.bias"] = state["image_proj"]["proj.bias"] + 1
        other = load_image_adapter(state)
        assert other != adapter and other.digest != adapter.digest
        assert adapter.to(dtype=torch.float16) != adapter
        assert adapter.to(dtype=torch.float16).digest == adapter.digest
        assert adapter != "linear"
        state = make_state(KINDS["linear"])  # the same values under other numbers
        state["ip_adapter"]["1.to_k_ip.weight"], state["ip_adapter"]["1.to_v_ip.weight"] = (
            state["ip_adapter"]["1.to_v_ip.weight"],
            state["ip_adapter"]["1.to_k_ip.weight"],
        )
        assert load_image_adapter(state).digest != adapter.digest

    @every_kind
    def test_state_dict_makes_it_again(self, kind):
        state = ADAPTERS[kind].state_dict()
        assert load_image_adapter(state, kind=kind) == ADAPTERS[kind]
        assert state.keys() == {"image_proj", "ip_adapter"}

    @given(dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float64]))
    @settings(max_examples=3, deadline=None)
    def test_dtype_round_trip(self, dtype):
        half = ADAPTERS["plus"].to(dtype=dtype)
        assert half.dtype == dtype
        image = features(half, 2)
        wide = half.to(dtype=torch.float64)
        ours, exact = half.get_image_embeds(image), wide.get_image_embeds(image)
        assert ours.cond.dtype == dtype
        torch.testing.assert_close(
            ours.cond.double(), exact.cond, atol=max(4 * torch.finfo(dtype).eps, 1e-5), rtol=0.01
        )
        assert wide.to(dtype=dtype).get_image_embeds(image) == ours

    def test_prints_what_it_is(self):
        adapter = load_image_adapter(make_state(KINDS["plus"], full=True))
        assert repr(adapter) == (
            "ImageAdapter(plus, sd1: 16 layers, 16 tokens of 768, takes CLIP hidden states "
            "(P, L, 1280), the second to last of the tower: CLIP ViT-H/14, float32 on meta)"
        )
