# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Settings in, pictures out; and the Python that makes the same picture."""

import math
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import attnpatch as ap
from attnpatch.demo.own_model import OwnOptions
from attnpatch.playground.compare import Playground, enlarged
from attnpatch.playground.own_model import OwnModel
from attnpatch.playground.settings import PromptSettings, Settings
from small_pipeline import make_own


def last(playground, settings, **options):
    return list(playground.run(settings, **options))[-1]


def pixels(picture):
    return np.asarray(picture.convert("RGB"), np.int16)


@pytest.fixture(scope="module")
def playground(model):
    return Playground(model)


def test_without_patches_both_pictures_are_the_same(playground, model):
    result = last(playground, model.defaults)
    assert result.patched == result.plain and result.plain.picture.size == (32, 32)
    assert len(result.stack) == 0 and result.attention is None and result.report == "no patches"


def test_a_reference_moves_the_picture_towards_it(playground, model, references):
    prompt = PromptSettings(references[0], 1.0)
    result = last(playground, replace(model.defaults, prompts=(prompt,)))
    plain, patched = (
        np.abs(pixels(made.picture) - pixels(references[0])).mean()
        for made in (result.plain, result.patched)
    )
    assert patched < 0.7 * plain
    assert result.stack == ap.PatchStack([model.image_prompt(references[0], weight=1.0)])
    assert result.report.startswith("7 of 7 layers patched")
    assert all(0 < made.seconds_per_step < math.inf for made in (result.plain, result.patched))


def test_a_mask_and_a_window_reach_the_patch(playground, model, references, left_half):
    prompt = PromptSettings(references[0], 1.0, start=0.2, end=0.7, mask=left_half)
    masked = last(playground, replace(model.defaults, prompts=(prompt,)))
    mask = torch.zeros(48, 64)
    mask[:, :32] = 1
    options = {"weight": 1.0, "start": 0.2, "end": 0.7}
    wanted = model.image_prompt(references[0], mask=mask, **options)
    assert masked.stack == ap.PatchStack([wanted])
    everywhere = last(playground, replace(model.defaults, prompts=(replace(prompt, mask=None),)))
    assert everywhere.stack == ap.PatchStack([model.image_prompt(references[0], **options)])
    assert masked.patched.picture.tobytes() != everywhere.patched.picture.tobytes()


def test_the_plain_picture_comes_first_and_is_made_once(playground, model, references):
    settings = replace(model.defaults, seed=5, prompts=(PromptSettings(references[1]),), sag=0.5)
    told = []
    first, second = playground.run(settings, lambda share, what: told.append((share, what)))
    assert first.patched is None and second.plain is first.plain
    assert second.attention.size == (256, 256)
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(told) == 2 * settings.steps
    again = last(playground, replace(settings, sag=0.0))
    assert again.plain is first.plain and again.attention is None


def test_two_threads_take_turns(playground, model, references):
    """Patches of one would else be attached while the other's picture is made."""
    wanted = {
        seed: model.run([model.image_prompt(references[seed], weight=1.0)], seed=seed)[0]
        for seed in (0, 1)
    }
    got = {}

    def work(seed):
        settings = replace(
            model.defaults, seed=seed, prompts=(PromptSettings(references[seed], 1.0),)
        )
        got[seed] = last(playground, settings).patched.picture

    threads = [threading.Thread(target=work, args=(seed,)) for seed in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(got[seed].tobytes() == wanted[seed].tobytes() for seed in wanted)


def test_a_model_that_fails_can_be_used_again(playground, model):
    with pytest.raises(ValueError, match="text: expected one of anything, t-shirt"):
        last(playground, replace(model.defaults, text="spaceship"))
    with pytest.raises(ValueError, match="reduction: expected one of Slothful 2"):
        last(playground, replace(model.defaults, reduction="none at all"))
    assert last(playground, model.defaults).plain.picture.size == (32, 32)


def everything(settings, pictures, mask):
    """Settings with all that there is."""
    prompts = (
        PromptSettings(pictures[0], 1.0, mask=mask),
        PromptSettings(pictures[1], 0.55, "ease in", start=0.1, end=0.9),
    )
    return replace(settings, prompts=prompts, sag=0.5, pag=1.0, guidance=1.3, seed=3)


def check_files(result, folder, monkeypatch):
    """The zip file alone makes the same picture, by its script and by its stack."""
    *_, bundle = result.save(folder)
    elsewhere = folder / "elsewhere"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(elsewhere)
    assert ap.PatchStack.load(elsewhere / "stack.safetensors") == result.stack
    (elsewhere / "picture.png").unlink()
    monkeypatch.chdir(elsewhere)
    names = {}
    exec(compile(result.script, "make_picture.py", "exec"), names)
    with Image.open("picture.png") as made:
        assert made.tobytes() == result.patched.picture.tobytes()
    assert names["stack"] == result.stack
    assert result.patched.picture.tobytes() != result.plain.picture.tobytes()


def test_the_script_makes_the_same_picture(
    playground, model, references, left_half, tmp_path, monkeypatch
):
    settings = everything(replace(model.defaults, text="bag"), references, left_half)
    check_files(last(playground, replace(settings, reduction="merging 0.5")), tmp_path, monkeypatch)


def test_without_patches_the_script_runs(playground, model, tmp_path, monkeypatch):
    result = last(playground, model.defaults)
    monkeypatch.chdir(tmp_path)
    exec(result.script, {})
    with Image.open("picture.png") as made:
        assert made.tobytes() == result.plain.picture.tobytes()


def test_an_unfinished_result_is_not_saved(playground, model, references, tmp_path):
    settings = replace(model.defaults, prompts=(PromptSettings(references[0]),))
    with pytest.raises(ValueError, match="save: expected a finished result"):
        next(playground.run(settings)).save(tmp_path)


def test_a_light_background_is_inverted(model, references):
    inverted = Image.eval(references[2], lambda level: 255 - level)
    plain, light, large = (
        pixels(model.run([model.image_prompt(picture)])[0])
        for picture in (references[2], inverted, enlarged(references[2]))
    )
    assert np.abs(plain - light).max() <= 1  # rounding in the encoder
    assert (plain == large).all()


@pytest.mark.slow
def test_the_script_of_a_users_model_makes_the_same_picture(tmp_path, left_half, monkeypatch):
    own = make_own(tmp_path / "own")
    model = OwnModel(
        OwnOptions(
            model=str(own / "model"),
            adapter=str(own / "adapter.safetensors"),
            images=(),
            image_encoder=str(own / "encoder"),
            prompt='a "word" \\ and more',
            steps=3,
            size=32,
        )
    )
    pictures = []
    for name in ("red", "sea"):
        with Image.open(own / f"{name}.png") as picture:
            pictures.append(picture.convert("RGB"))
    assert model.defaults == Settings(text='a "word" \\ and more', steps=3, size=32)
    settings = everything(replace(model.defaults, negative="dull"), pictures, left_half)
    check_files(last(Playground(model), settings), tmp_path, monkeypatch)
