# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnpatch import Identity, ImageEmbeds, ImagePrompt, PatchStack, get_identity_embeds, regions
from attnpatch.adapters import ImageAdapter, as_identity_adapter, load_embeds, noise_like
from attnpatch.engine import Call, Site
from attnpatch.faces import Face
from attnpatch.patches import resolve_overlaps

POINTS = np.zeros((5, 2), np.float32)


def make_state(context=32, channels=(32, 64), tokens=4, dim=64):
    """A state dict of InstantID's structure, small."""
    g = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(shape, generator=g) / shape[-1] ** 0.5

    proj = {"latents": randn(1, tokens, dim)}
    for name, rows, columns in (("proj_in", dim, 512), ("proj_out", context, dim)):
        proj |= {f"{name}.weight": randn(rows, columns), f"{name}.bias": randn(rows)}
    norms = {"norm_out": context}
    for d in range(2):
        for name, rows, columns in (
            (f"layers.{d}.0.to_q", 64, dim),
            (f"layers.{d}.0.to_kv", 128, dim),
            (f"layers.{d}.0.to_out", dim, 64),
            (f"layers.{d}.1.1", 4 * dim, dim),
            (f"layers.{d}.1.3", dim, 4 * dim),
        ):
            proj[f"{name}.weight"] = randn(rows, columns)
        norms |= {f"layers.{d}.0.norm1": dim, f"layers.{d}.0.norm2": dim, f"layers.{d}.1.0": dim}
    for name, size in norms.items():
        proj |= {f"{name}.weight": torch.ones(size), f"{name}.bias": torch.zeros(size)}
    sites = {
        f"{2 * n + 1}.to_{letter}_ip.weight": randn(size, context)
        for n, size in enumerate(channels)
        for letter in "kv"
    }
    return {"image_proj": proj, "ip_adapter": sites}


@pytest.fixture(scope="module")
def state():
    return make_state()


@pytest.fixture(scope="module")
def model(state):
    return as_identity_adapter(state)


@pytest.fixture
def on_table(table):
    """An adapter for the layers of the small UNet."""
    return as_identity_adapter(make_state(channels=table.channels))


def embedding(seed=0):
    return torch.randn(512, generator=torch.Generator().manual_seed(seed))


def face(seed=0):
    return Face([0, 0, 9, 9], 1.0, POINTS, 20 * embedding(seed).numpy())


class ForeignModel(torch.nn.Module):
    """The form in which a node pack holds an InstantID model."""

    def __init__(self, state):
        super().__init__()
        self.image_proj_model = torch.nn.Module()
        for name, value in state["image_proj"].items():
            self.image_proj_model.register_buffer(name.replace(".", "/"), value)
        self.image_proj_model.state_dict = lambda: state["image_proj"]
        self.ip_layers = torch.nn.Module()
        self.ip_layers.to_kvs = torch.nn.ModuleDict()
        for name, value in state["ip_adapter"].items():
            layer = torch.nn.Linear(value.shape[1], value.shape[0], bias=False)
            layer.weight.data = value
            self.ip_layers.to_kvs[name.removesuffix(".weight").replace(".", "_")] = layer


def test_every_form_of_a_model_is_the_same_adapter(state, model):
    flat = {f"{g}.{name}": t for g, tensors in state.items() for name, t in tensors.items()}
    assert isinstance(model, ImageAdapter) and model.kind == "instantid"
    assert as_identity_adapter(model) is model
    assert as_identity_adapter(flat).digest == model.digest
    assert as_identity_adapter(ForeignModel(state)).digest == model.digest
    with pytest.raises(TypeError, match="instantid"):
        as_identity_adapter(7)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1))
def test_noise_is_that_of_the_global_generator_seeded_by_the_sum(seed, noise):
    vector = 50 * torch.randn(1, 512, generator=torch.Generator().manual_seed(seed))
    state = torch.get_rng_state()
    found = noise_like(vector, noise)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(vector.sum().item()) % 1000000007)
        wanted = noise * torch.rand_like(vector)
    assert torch.equal(found, wanted)


def test_no_noise_is_zeros_and_strange_noise_an_error():
    assert not noise_like(embedding(), 0.0).any()
    for noise in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="noise"):
            noise_like(embedding(), noise)


def test_embeds_are_those_of_embedding_and_noise(model):
    one = embedding()[None]
    found = get_identity_embeds(model, one, noise=0.35)
    wanted = model.get_image_embeds(one, noise_like(one, 0.35))
    assert torch.equal(found.cond, wanted.cond) and torch.equal(found.uncond, wanted.uncond)
    assert found.cond.shape == (1, 4, 32)


def test_faces_give_the_embedding_that_the_adapter_takes(model):
    assert torch.equal(
        get_identity_embeds(model, face()).cond,
        get_identity_embeds(model, torch.from_numpy(np.array(face().embedding))).cond,
    )
    zeros = get_identity_embeds(model, [None])
    assert torch.equal(zeros.cond, zeros.uncond)
    with pytest.raises(TypeError, match="embedding"):
        get_identity_embeds(model, ["a face"])
    with pytest.raises(ValueError, match="at least one"):
        get_identity_embeds(model, [])


def test_combining_faces(model):
    both = torch.stack([3 * embedding(1), 7 * embedding(2)])

    def cond(value, **options):
        return get_identity_embeds(model, value, **options).cond

    torch.testing.assert_close(cond(both), cond(both.mean(0)))
    own = both / both.norm(dim=1, keepdim=True)
    torch.testing.assert_close(cond(both, combine="norm average"), cond(own.mean(0)))
    across = both / both.norm(dim=0, keepdim=True)
    torch.testing.assert_close(
        cond(both, combine="norm average", compat="comfyui_instantid"), cond(across.mean(0))
    )
    joined = torch.cat([cond(both[0]), cond(both[1])], dim=1)
    torch.testing.assert_close(cond(both, combine="concat"), joined)
    assert torch.equal(cond(both[:1], combine="norm average"), cond(both[:1]))


def test_tokens_are_saved_and_read_back(tmp_path, model):
    embeds = get_identity_embeds(model, face(), noise=0.2)
    embeds.save(tmp_path / "anna.safetensors")
    read = load_embeds(tmp_path / "anna.safetensors", model)
    assert read == embeds and read.metadata["noise"] == "0.2"


def test_is_an_image_prompt_of_its_own_kind(on_table, table):
    embeds = get_identity_embeds(on_table, face(), noise=0.35)
    identity = Identity(on_table, face(), 0.7, noise=0.35, start=0.1, end=0.9)
    prompt = ImagePrompt(on_table, embeds, 0.7, start=0.1, end=0.9)
    assert identity.keys_values == prompt.keys_values
    assert identity != prompt and prompt != identity
    assert identity == Identity(on_table, embeds, 0.7, start=0.1, end=0.9)
    assert repr(identity).startswith("Identity(")
    assert Identity(on_table, face()).weight.scale == 0.8
    with pytest.raises(ValueError, match="ready tokens"):
        Identity(on_table, embeds, noise=0.1)
    with pytest.raises(TypeError):
        Identity(on_table, face(), strength=1)


def test_survives_pickle_files_and_replace(tmp_path, on_table):
    identity = Identity(on_table, face(), mask=torch.ones(4, 4))
    assert pickle.loads(pickle.dumps(identity)) == identity
    PatchStack([identity]).save(tmp_path / "stack.safetensors")
    assert PatchStack.load(tmp_path / "stack.safetensors")[0] == identity
    assert isinstance(identity.replace(weight=2.0), Identity)


def attend(patches, table, latent=(8, 8), seed=3):
    """Out of one layer, and out without patches."""
    g = torch.Generator().manual_seed(seed)
    layer = table[0]
    tokens = latent[0] * latent[1]
    q = torch.randn(2, 2, tokens, layer.channels // 2, generator=g)
    k, v = torch.randn(2, 2, 2, 5, layer.channels // 2, generator=g)
    site = Site.over_text(layer, Call(latent=latent, batch=2, chunks=(1, 0)))
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    run = PatchStack(patches).bind(table)
    return run.attend(site, q, k, v) - plain.transpose(1, 2).flatten(2).view_as(
        run.attend(site, q, k, v)
    )


def test_people_keep_to_their_regions(on_table, table):
    left, right = torch.zeros(2, 8, 8)
    left[:, :4], right[:, 4:] = 1, 1
    anna, ben = Identity(on_table, face(1), mask=left), Identity(on_table, face(2), mask=right)
    both = attend(regions([anna, ben]), table)
    torch.testing.assert_close(both, attend([anna], table) + attend([ben], table))
    columns = both.reshape(2, 8, 8, -1)
    torch.testing.assert_close(
        columns[:, :, :4], attend([anna], table).reshape(columns.shape)[:, :, :4]
    )
    assert attend([anna], table).reshape(columns.shape)[:, :, 4:].abs().max() < 1e-5


def test_overlaps_are_resolved_as_asked(on_table):
    wide, half = torch.ones(4, 6), torch.zeros(4, 6)
    half[:, :3] = 0.5
    people = [Identity(on_table, face(i), mask=mask) for i, mask in enumerate((half, wide))]
    by_sum = regions(people)
    assert list(by_sum) == people
    first, second = (p.mask[0] for p in regions(people, overlap="priority"))
    assert torch.equal(first, half) and torch.equal(second, 1 - half)
    first, second = (p.mask[0] for p in regions(people, overlap="normalise"))
    torch.testing.assert_close(first[0, 0], torch.tensor(0.5 / 1.5))
    torch.testing.assert_close(second[0], torch.tensor([1 / 1.5] * 3 + [1.0] * 3))
    with pytest.raises(ValueError, match="overlap"):
        regions(people, overlap="first")
    with pytest.raises(TypeError, match="prompts"):
        regions([1])


@pytest.mark.parametrize("overlap", ["priority", "normalise"])
def test_masks_stay_where_they_are_whatever_device_is_the_default(overlap):
    mask = torch.ones(2, 2).tril()
    expected = resolve_overlaps([mask, None], overlap)
    with torch.device("meta"):
        found = resolve_overlaps([mask, None], overlap)
    assert all(map(torch.equal, found, expected))


def test_prompt_without_mask_is_for_the_whole_picture():
    mask = torch.zeros(2, 2)
    mask[0, 0] = 1
    first, rest = resolve_overlaps([mask, None], "priority")
    assert torch.equal(first[0], mask) and torch.equal(rest[0], 1 - mask)
    whole, nothing = resolve_overlaps([None, mask], "priority")
    assert bool((whole == 1).all()) and not nothing.any()
    assert resolve_overlaps([None], "priority") == [None]
    assert resolve_overlaps([], "normalise") == []


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=4),
    st.sampled_from(["priority", "normalise"]),
    st.integers(0, 99),
)
def test_regions_never_add_up_to_more_than_one(sizes, overlap, seed):
    g = torch.Generator().manual_seed(seed)
    masks = [torch.rand(h, w, generator=g) for h, w in sizes]
    found = resolve_overlaps(masks, overlap)
    assert len({tuple(mask.shape) for mask in found}) == 1
    assert float(sum(found).max()) <= 1 + 1e-5


def test_ready_embeds_may_be_any_pair(on_table):
    embeds = ImageEmbeds(torch.zeros(1, 4, 32), torch.zeros(1, 4, 32))
    assert Identity(on_table, embeds).keys_values.tokens == 4
