# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The FaceID adapter for Kolors: its tokens go through a projection that the model has."""

import pytest
import torch
import torch.nn.functional as F
from fake_adapters import SDXL, Maker, save_state

from attnpatch.adapters import ImageEmbeds, describe, load_embeds, load_image_adapter
from attnpatch.patches import ImagePrompt

CHANNELS = [32, 64]
NAME = "ipa-faceid-plus"  # of the published file


@pytest.fixture(scope="module")
def adapter():
    return load_image_adapter(Maker(3).kolors_face(CHANNELS))


@pytest.fixture(scope="module")
def embeds(adapter):
    face = F.normalize(Maker(4).randn(2, 32), dim=-1)
    return adapter.get_image_embeds((face, Maker(5).randn(2, 7, 40)), Maker(6).randn(1, 7, 40))


def linear(rows=2048, columns=4096):
    return Maker(7).linear("x", rows, columns).values()


def test_it_is_told_from_its_tensors():
    published = {"face": 512, "embed": 1024, "heads": 64, "depth": 4, "mult": 4}
    adapter = load_image_adapter(Maker(device="meta").kolors_face(SDXL, **published))
    assert (adapter.kind, adapter.family, adapter.layout.note) == ("faceid_plus_v2", "kolors", "")
    assert (adapter.tokens, adapter.token_dim, adapter.context_dim) == (6, 4096, 2048)
    assert [takes.size for takes in adapter.takes] == [512, 1024]
    assert "CLIP ViT-L/14-336" in adapter.takes[1].fitting


def test_its_file_is_described(tmp_path):
    text = describe(save_state(Maker().kolors_face(CHANNELS), tmp_path / f"{NAME}.bin"))
    assert "faceid_plus_v2" in text and "Kolors, context 2048" in text
    assert "6 a picture, of 4096 values before the model's own projection" in text


def test_tokens_before_and_after_the_projection_of_the_model(adapter, embeds, tmp_path):
    assert embeds.cond.shape == (1, 12, 4096)
    weight, bias = linear()
    through = embeds.through(weight, bias, scale=0.6)
    for before, after in ((embeds.cond, through.cond), (embeds.uncond, through.uncond)):
        torch.testing.assert_close(after, 0.6 * (before @ weight.T + bias))
    assert through.metadata["context_dim"] == "2048"
    shapes = [tuple(k.shape) for k, _ in adapter.project_sites(through.cond)]
    assert shapes == [(1, 12, c) for c in CHANNELS]
    assert ImagePrompt(adapter, through).keys_values.tokens == 12
    through.save(tmp_path / "face.safetensors")
    assert load_embeds(tmp_path / "face.safetensors", adapter) == through


def test_half_precision_stays_and_is_summed_in_single(embeds):
    weight, bias = linear()
    half = embeds.to(dtype=torch.float16)
    found = half.through(weight.half(), bias.half())
    exact = half.to(dtype=torch.float64).through(weight.half().double(), bias.half().double())
    assert found.cond.dtype is torch.float16
    # Two half-precision numbers that are neighbours, at most.
    torch.testing.assert_close(found.cond.double(), exact.cond, rtol=2**-10, atol=1e-5)


def test_what_is_forgotten_or_does_not_fit_is_said(adapter, embeds):
    with pytest.raises(ValueError, match="tokens: those of this adapter first go through the proj"):
        ImagePrompt(adapter, embeds)
    with pytest.raises(ValueError, match=r"weight: expected \(context, 4096\).*got \(2048, 768\)"):
        embeds.through(*linear(columns=768))
    weight, bias = linear()
    with pytest.raises(ValueError, match=r"bias: expected \(2048,\), got \(100,\)"):
        embeds.through(weight, bias[:100])
    other = ImageEmbeds(torch.zeros(1, 4, 768), torch.zeros(1, 4, 768))
    with pytest.raises(ValueError, match=r"tokens: this kolors adapter takes \(R, M, 2048\)"):
        ImagePrompt(adapter, other)
