# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Guiders that batch other conditionings than a pair of cond and uncond: rows keep their roles."""

import pytest
import torch
from comfyui_oracle import make_prompt
from protocol_sampling import make_comfy
from protocol_unet import SD1
from sampling_host import Sampler, entry

import attnpatch as ap
from attnpatch.patches.guidance.record import AttentionRecord, Recorded

SEEDS = {"positive": 1, "negative": 2, "middle": 3}


@pytest.fixture(scope="module")
def model():
    return make_comfy(SD1)


class Guider:
    """Runs a step in which its conditionings, by name, are batched in an order."""

    def __init__(self, model, names, order):
        self.model, self.order = model, order
        self.conds = {}
        for name in names:
            generator = torch.Generator().manual_seed(SEEDS[name])
            own = entry(torch.randn(1, 7, SD1.context_dim, generator=generator), name)
            told = {} if name in ("positive", "negative") else {"prompt_type": "negative"}
            self.conds[name] = [own | told]
        self.class_obj = self

    def __call__(self, x, timestep, model_options, seed):
        conds = [self.conds[name] for name in self.order]
        return Sampler().calc_cond_batch(self.model.model, conds, x, timestep, model_options)

    def predict(self):
        """The predictions by name."""
        x = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
        options = dict(self.model.model_options)
        (wrapper,) = options["transformer_options"]["wrappers"]["predict_noise"]["attnpatch"]
        with torch.no_grad():
            found = wrapper(self, x, torch.full((1,), 4.0), options, 3)
        return dict(zip(self.order, found, strict=True))


ORDERS = {
    "two guidance scales": ("negative", "middle", "positive"),
    "an empty prompt": ("positive", "negative", "middle"),
    "uncond alone": ("negative",),
    "a pair": ("positive", "negative"),
}
PATCHES = [make_prompt(), ap.KeyGain(ap.TextKeys((2, 5)), 6.0)]


@pytest.mark.parametrize("patch", PATCHES, ids=["image prompt", "words"])
@pytest.mark.parametrize("order", ORDERS)
def test_rows_have_the_roles_of_their_names(model, order, patch):
    patched = ap.patch_model(model, patch)
    names = tuple(dict.fromkeys(("positive", "negative", *ORDERS[order])))
    found = Guider(patched, names, ORDERS[order]).predict()
    for name, prediction in found.items():
        pair = ("positive", "negative" if name == "positive" else name)
        expected = Guider(patched, pair, pair).predict()[name]
        torch.testing.assert_close(prediction, expected, rtol=1e-5, atol=1e-5)


def test_names_that_say_nothing_leave_the_numbers(model):
    patched = ap.patch_model(model, make_prompt())
    guider = Guider(patched, ("positive", "negative"), ("positive", "negative"))
    expected = list(guider.predict().values())
    guider.conds = {f"my {name}": entries for name, entries in guider.conds.items()}
    guider.order = tuple(guider.conds)
    for ours, theirs in zip(guider.predict().values(), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_record_of_some_conditionings():
    record = AttentionRecord()
    record.entries = [
        Recorded(s, None, None, 0, (1, 2), torch.ones(1, 2)) for s in ("a", "b", None)
    ]
    assert [entry.source for entry in record.of({"b"}).entries] == ["b", None]
    assert not AttentionRecord().of({"b"})
