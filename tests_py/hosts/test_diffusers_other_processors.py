# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attached beside what others put into a UNet: processors, backends, adapters."""

import copy
import logging
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from attach_case import GUIDED, original, prompt, run
from diffusers import UNetMotionModel
from diffusers.models.attention_processor import (
    AttnProcessor2_0,
    IPAdapterAttnProcessor2_0,
    SlicedAttnProcessor,
)
from diffusers_models import (
    is_original,
    make_adapter_state,
    make_features,
    unet_inputs,
)

from attnpatch.adapters import load_image_adapter
from attnpatch.hosts import attach
from attnpatch.hosts.diffusers import share_weights
from attnpatch.patches import ImagePrompt


@pytest.fixture
def unet():
    return share_weights(original())


class Tinted:
    """A processor of someone else's, with a keyword of its own."""

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, *, tint=0.0):
        return AttnProcessor2_0()(attn, x, encoder_hidden_states, attention_mask) + tint


class Weighted(torch.nn.Module):
    """One that is a module, as those with weights are."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, attn, x, encoder_hidden_states=None, attention_mask=None):
        out = AttnProcessor2_0()(attn, x, encoder_hidden_states, attention_mask)
        return out * (1 + 0 * self.gain)


@pytest.mark.parametrize("shared_softmax", [False, True])
@pytest.mark.parametrize(
    "make", [lambda: SlicedAttnProcessor(1), Tinted, Weighted], ids=["sliced", "custom", "module"]
)
def test_foreign_processors_are_called_and_added_to(unet, make, shared_softmax):
    image = prompt(shared_softmax=shared_softmax)
    with attach(unet, image, **GUIDED):
        expected = run(unet)
    unet.set_attn_processor({name: make() for name in unet.attn_processors})
    before, keys = unet.attn_processors, unet.state_dict().keys()
    kind = type(next(iter(before.values())))
    with attach(unet, image, **GUIDED):
        torch.testing.assert_close(run(unet), expected, rtol=0, atol=2e-5)
        assert all(isinstance(p, kind) for p in unet.attn_processors.values())
        assert unet.state_dict().keys() == keys
        if kind is Tinted:
            tint = {"cross_attention_kwargs": {"tint": 3.0}}
            assert (run(unet, **tint) - expected).abs().max() > 0.1
    assert all(unet.attn_processors[name] is before[name] for name in before)


def test_weights_of_foreign_processors_still_move_with_the_model(unet):
    unet.set_attn_processor({name: Weighted() for name in unet.attn_processors})
    with attach(unet, prompt(), **GUIDED):
        mid = unet.mid_block.attentions[0].transformer_blocks[0].attn2.processor
        mid.to(torch.float64)
    mid = unet.mid_block.attentions[0].transformer_blocks[0].attn2.processor
    assert type(mid) is Weighted
    assert mid.gain.dtype == torch.float64


def test_text_masks_reach_the_text_alone(unet):
    image = prompt()
    inputs = unet_inputs(unet)
    keep = torch.tensor([[True] * 5 + [False] * 2] * 2)
    short = inputs["encoder_hidden_states"][:, :5]
    with attach(unet, image, **GUIDED):
        expected = run(unet, encoder_hidden_states=short)
        found = run(unet, encoder_attention_mask=keep)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with (
        attach(unet, prompt(shared_softmax=True), **GUIDED),
        pytest.raises(ValueError, match="shared_softmax"),
    ):
        run(unet, encoder_attention_mask=keep)


def test_an_attention_backend_of_diffusers_serves_the_text(unet):
    with attach(unet, prompt(), **GUIDED):
        expected = run(unet)
        unet.set_attention_backend("_native_math")
        with mock.patch(
            "diffusers.models.attention_dispatch.dispatch_attention_fn", autospec=True
        ) as dispatch:
            dispatch.side_effect = lambda q, k, v, **_: F.scaled_dot_product_attention(
                *(x.transpose(1, 2) for x in (q, k, v))
            ).transpose(1, 2)
            torch.testing.assert_close(run(unet), expected, rtol=0, atol=1e-5)
        assert dispatch.call_count == 16
        torch.testing.assert_close(run(unet), expected, rtol=0, atol=1e-5)
        unet.reset_attention_backend()
        assert torch.equal(run(unet), expected)


def test_beside_an_ip_adapter_of_the_models_own(unet):
    """Its terms stay, its scale can be set, and ours come on top."""
    state = make_adapter_state(unet, "linear", seed=7)
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    features = torch.randn(2, 1, 24, generator=torch.Generator().manual_seed(8))
    images = {"added_cond_kwargs": {"image_embeds": [features]}}
    own = run(unet, **images)
    before, keys = unet.attn_processors, unet.state_dict().keys()
    with attach(unet, prompt(), **GUIDED):
        both = run(unet, **images)
        assert unet.state_dict().keys() == keys
        for processor in unet.attn_processors.values():  # as `set_ip_adapter_scale` does
            if isinstance(processor, IPAdapterAttnProcessor2_0):
                processor.scale = [0.0]
        ours = run(unet, **images)
    assert all(unet.attn_processors[name] is before[name] for name in before)
    assert all(p.scale == [0.0] for p in before.values() if hasattr(p, "scale"))
    with attach(share_weights(original()), prompt(), **GUIDED) as alone:
        torch.testing.assert_close(ours, run(alone._denoiser), rtol=0, atol=1e-5)

    # Both are sums of terms: two of ours with the same weights do the same.
    adapter = load_image_adapter(state)
    embeds = adapter.get_image_embeds(features[1], features[0])
    prompts = [prompt(), ImagePrompt(adapter, embeds)]
    with attach(share_weights(original()), prompts, **GUIDED) as alone:
        torch.testing.assert_close(both, run(alone._denoiser), rtol=0, atol=2e-5)
    assert not torch.equal(both, own)


def test_processors_replaced_after_attach_are_taken_along(unet, caplog):
    with attach(unet, prompt(), **GUIDED) as attached:
        expected = run(unet)
        unet.set_attn_processor(SlicedAttnProcessor(1))
        with caplog.at_level(logging.WARNING, "attnpatch"):
            torch.testing.assert_close(run(unet), expected, rtol=0, atol=2e-5)
            run(unet)
        assert [r.message for r in caplog.records] == [
            "16 attention processors were replaced after attach, by SlicedAttnProcessor: the "
            "patches are added to those"
        ]
        attached.detach()
        assert all(type(p) is SlicedAttnProcessor for p in unet.attn_processors.values())


def test_processors_put_away_and_put_back(unet):
    """As diffusers' PAG pipelines do around a run."""
    with attach(unet, prompt(), **GUIDED):
        expected = run(unet)
        saved = unet.attn_processors
        unet.set_attn_processor(AttnProcessor2_0())
        assert torch.equal(run(unet), expected)
        unet.set_attn_processor(dict(saved))
        assert torch.equal(run(unet), expected)
    unet.set_attn_processor(dict(saved))  # too late: they do what the originals do
    with attach(share_weights(original()), prompt().replace(weight=0.0), **GUIDED) as plain:
        assert torch.equal(run(unet), run(plain._denoiser))
    with attach(unet, prompt(), **GUIDED):
        assert torch.equal(run(unet), expected)
    assert is_original(unet)


def test_processors_made_anew_by_their_class(unet):
    """As diffusers' `unload_ip_adapter` does."""
    with attach(unet, prompt(), **GUIDED):
        expected = run(unet)
        unet.set_attn_processor({n: p.__class__() for n, p in unet.attn_processors.items()})
        assert torch.equal(run(unet), expected)
    assert is_original(unet)


def test_a_wrapper_around_ours_counts_once(unet):
    class Wrapper:
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None):
            return self.inner(attn, x, encoder_hidden_states, attention_mask)

    attached = attach(unet, prompt(), **GUIDED)
    expected = run(unet)
    unet.set_attn_processor({n: Wrapper(p) for n, p in unet.attn_processors.items()})
    torch.testing.assert_close(run(unet), expected, rtol=0, atol=2e-5)
    attached.detach()
    with attach(share_weights(original()), prompt().replace(weight=0.0), **GUIDED) as plain:
        assert torch.equal(run(unet), run(plain._denoiser))


def test_attention_that_was_replaced_altogether_is_an_error(unet):
    with attach(unet, prompt(), **GUIDED):
        for block in [*unet.down_blocks, unet.mid_block, *unet.up_blocks]:
            for attention in getattr(block, "attentions", []):
                for transformer in attention.transformer_blocks:
                    transformer.attn2 = copy.deepcopy(transformer.attn2)
                    transformer.attn2.set_processor(AttnProcessor2_0())
        with pytest.raises(RuntimeError, match="none of the 16 patched attention layers ran"):
            run(unet)


def test_rescaled_residual_layers(unet):
    for transformer in unet.mid_block.attentions[0].transformer_blocks:
        transformer.attn2.rescale_output_factor = 2.0
        transformer.attn2.residual_connection = True
    with attach(unet, prompt(), **GUIDED):
        fused = run(unet)
    unet.set_attn_processor(Tinted())
    with attach(unet, prompt(), **GUIDED):
        torch.testing.assert_close(run(unet), fused, rtol=0, atol=2e-5)


def test_the_frames_of_a_video_are_rows_of_the_batch():
    options = {name: original().config[name] for name in VIDEO_OPTIONS}
    unet = UNetMotionModel(**options, num_attention_heads=2, motion_num_attention_heads=2).eval()
    unet.requires_grad_(False)
    inputs = unet_inputs(unet, batch=2)
    inputs["sample"] = inputs["sample"][:, :, None].repeat(1, 1, 3, 1, 1)
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"].repeat_interleave(3, 0)
    state = make_adapter_state(original(), "linear")
    features, negative = make_features("linear", 1)
    adapter = load_image_adapter(state)
    image = ImagePrompt(adapter, adapter.get_image_embeds(features, negative), 0.8)
    with attach(unet, image, **GUIDED) as attached:
        found = run(unet, **inputs)
        assert len(attached.report.matched) == 16
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if isinstance(processor, IPAdapterAttnProcessor2_0):
            processor.scale = [0.8]
    images = {"image_embeds": [torch.stack([negative, features])]}
    expected = run(unet, **inputs, added_cond_kwargs=images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


VIDEO_OPTIONS = (
    "block_out_channels",
    "cross_attention_dim",
    "in_channels",
    "layers_per_block",
    "norm_num_groups",
    "out_channels",
    "sample_size",
)
