# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

import gzip
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch.demo import store
from attnpatch.demo.items import Split
from attnpatch.demo.model import EMBED_DIM, NULL_CLASS, ImageEncoder
from fashion_mnist import train, weights
from fashion_mnist.data import TUNING_ITEMS, load_split
from fashion_mnist.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (256, 28, 28), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(256) % 10)


def test_batches_depend_on_seed_and_step_alone(split):
    embeds = torch.randn(len(split), EMBED_DIM)
    make = train.BatchMaker(split, embeds, Recipe(), CPU)
    first, again, next_one = make(7), make(7), make(8)
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.timesteps, again.timesteps)
    assert not torch.equal(first.latents, next_one.latents)


def test_the_kinds_of_prompts_have_their_shares(split):
    recipe = replace(Recipe(), batch=20_000, embed_noise=0.0)
    batch = train.BatchMaker(split, torch.ones(len(split), EMBED_DIM), recipe, CPU)(0)
    off = batch.image_weights.eq(0)
    zero = ~off & batch.embeds.eq(0).all(1)
    on = ~off & ~zero
    dropped = batch.classes.eq(NULL_CLASS)
    shares = [part.float().mean().item() for part in (off, zero, on)]
    wanted = [recipe.image_off, recipe.image_zero, 1 - recipe.image_off - recipe.image_zero]
    assert shares == pytest.approx(wanted, abs=0.02)
    assert dropped[off].float().mean().item() == pytest.approx(recipe.class_drop, abs=0.02)
    assert dropped[on].float().mean().item() == pytest.approx(recipe.class_drop_image, abs=0.02)
    assert dropped[zero].all()


def test_timesteps_are_stratified(split):
    recipe = replace(Recipe(), batch=50)
    batch = train.BatchMaker(split, torch.zeros(len(split), EMBED_DIM), recipe, CPU)(3)
    strata = torch.sort(batch.timesteps).values // 20
    assert torch.equal(strata, torch.arange(50))


def test_resuming_continues_exactly(split, tmp_path):
    recipe = replace(Recipe(), steps=4, batch=4, warmup=2)
    encoder = ImageEncoder().eval()
    straight = train.train_denoiser(split, encoder, recipe, CPU, tmp_path / "a.pt")

    class Stop(Exception):
        pass

    class Interrupted(train.BatchMaker):
        def __call__(self, step):
            if step == 2:
                raise Stop
            return super().__call__(step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "BatchMaker", Interrupted)
        patch.setattr(train, "CHECKPOINT_EVERY", 2)
        with pytest.raises(Stop):
            train.train_denoiser(split, encoder, recipe, CPU, tmp_path / "b.pt")
    resumed = train.train_denoiser(split, encoder, recipe, CPU, tmp_path / "b.pt", resume=True)
    for first, second in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(first, second)


def test_training_writes_every_file(tmp_path, monkeypatch):
    """The command itself, on a tiny dataset of the right format."""
    rng = np.random.default_rng(0)
    for stem, count in (("train", TUNING_ITEMS + 256), ("t10k", 200)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array, rank in (("images", images, 3), ("labels", labels, 1)):
            head = struct.pack(f">BBBB{rank}I", 0, 0, 8, rank, *array.shape)
            path = tmp_path / f"{stem}-{kind}-idx{rank}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.tobytes(), 1))
    output = tmp_path / "weights"
    arguments = ["--data", str(tmp_path), "--output", str(output), "--steps", "2"]
    assert train.main(arguments) == 0
    assert weights.load_denoiser(output) is not None
    assert store.load_classifier(output) is not None
    assert len(store.load_references(output)) == store.REFERENCES
    assert len(load_split("train", tmp_path)) == 256


@given(steps=st.integers(1, 50_000), step=st.integers(0, 60_000))
@settings(deadline=None)
def test_learning_rate_stays_within_bounds(steps, step):
    recipe = replace(Recipe(), steps=steps)
    assert 0.0 <= recipe.rate(step) <= recipe.learning_rate


def test_learning_rate_rises_holds_and_falls():
    recipe = replace(Recipe(), steps=1000, warmup=100, decay=0.5)
    assert recipe.rate(0) == pytest.approx(recipe.learning_rate / 100)
    assert recipe.rate(300) == recipe.learning_rate
    assert recipe.rate(750) == pytest.approx(recipe.learning_rate / 2)
    assert recipe.rate(1000) == pytest.approx(0.0)


@given(reach=st.integers(0, 3), seed=st.integers(0, 20))
@settings(deadline=None, max_examples=20)
def test_shifting_moves_a_dot_by_at_most_the_reach(reach, seed):
    pixels = torch.full((5, 1, 32, 32), -1.0)
    pixels[:, :, 16, 16] = 1.0
    moved = train.shift(pixels, reach, torch.Generator().manual_seed(seed))
    places = moved.eq(1.0).nonzero()
    assert len(places) == 5
    assert (places[:, 2:] - 16).abs().max() <= reach
