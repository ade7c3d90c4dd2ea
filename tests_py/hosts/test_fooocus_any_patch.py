# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Any patch in a Fooocus model: recognised, patched, reported, by the verbs of all hosts."""

from __future__ import annotations

import protocol_host as host
import pytest
import torch
from fooocus_oracle import make_task, split_pairs

from attnpatch import hosts
from attnpatch.engine import layer_table
from attnpatch.hosts import fooocus
from attnpatch.hosts.comfyui.unet.layers import read_layer_table
from attnpatch.patches import ImagePrompt

WIDTH = 16
SIGMA = 5.0


class FooocusPatcher(host.Patcher):
    __module__ = "ldm_patched.modules.model_patcher"

    def clone(self):
        options = host.CLONE_RULES[self.clone_rule](self.model_options)
        return type(self)(self.model, self.clone_rule, options)


def make_fooocus(structure=host.SD1):
    return FooocusPatcher(host.make_host(structure, WIDTH).model)


def make_prompt(structure=host.SD1, **options):
    (conds, unconds), _, _ = make_task(structure, WIDTH)
    return ImagePrompt.from_keys_values(split_pairs(conds), split_pairs(unconds), **options)


def test_a_model_is_recognised_by_where_its_class_comes_from():
    assert fooocus.is_host(make_fooocus())
    assert not fooocus.is_host(host.make_host(host.SD1, WIDTH))
    assert not fooocus.is_host(torch.nn.Linear(1, 1))


def test_decoupled_masked_prompts_add_their_own_attention():
    model = make_fooocus()
    mask = torch.zeros(16, 16)
    mask[:, 8:] = 1
    patched = hosts.patch_model(model, make_prompt(weight=2.0, mask=mask))
    x, contexts = host.make_inputs(host.SD1)
    slot = patched.slots()["input", 1, 0]
    seen = {}

    def recorded(q, k, v, options):
        seen["q"], seen["plain"] = q, host.attention(q, k, v, options["n_heads"])
        seen["out"] = slot(q, k, v, options)
        return seen["out"]

    patched.set_model_attn2_replace(recorded, "input", 1, 0)
    patched.apply(x, SIGMA, contexts, [1, 0])
    (conds, unconds), _, _ = make_task(host.SD1, WIDTH)
    k, v = (torch.cat([unconds[i], conds[i]]) for i in (0, 1))
    term = 2.0 * host.attention(seen["q"], k, v, WIDTH // host.HEAD_SIZE)
    right = mask.flatten()[None, :, None]
    torch.testing.assert_close(seen["out"], seen["plain"] + right * term, atol=1e-5, rtol=1e-5)


def test_decoupled_terms_are_added_to_a_foreign_patch():
    model = make_fooocus()
    model.set_model_attn2_replace(lambda q, k, v, options: 3 * q, "middle", 0, 0)
    slot = hosts.patch_model(model, make_prompt(weight=0.5)).slots()["middle", 0, 0]
    model.model.diffusion_model.current_step = torch.zeros(1)
    q, text = torch.randn(2, 1, 4, 4 * WIDTH).unbind()
    options = {"n_heads": 8, "cond_or_uncond": [0], "original_shape": [1, 4, 16, 16]}
    (conds, _), _, _ = make_task(host.SD1, WIDTH)
    expected = 3 * q + 0.5 * host.attention(q, conds[-2], conds[-1], 8)
    torch.testing.assert_close(slot(q, text, text, options), expected)


def test_only_the_layers_that_a_weight_names_are_touched():
    model = make_fooocus(host.SDXL)
    patched = hosts.patch_model(model, make_prompt(host.SDXL, weight={6: 1.0}))
    assert set(patched.slots()) == {("output", 1, i) for i in range(10)}
    report = hosts.report(patched)
    assert len(report.matched) == 10 and len(report.skipped) == 60
    assert hosts.report(model).matched == ()


def test_a_clone_says_what_it_has():
    model, image = make_fooocus(), make_prompt()
    patched = hosts.patch_model(model, image)
    assert list(hosts.attached(model)) == []
    assert list(hosts.attached(patched)) == [image]
    with pytest.raises(TypeError, match=r"of Fooocus .* nothing to detach; patch_model"):
        hosts.detach(patched)


def test_patching_in_place_and_unknown_models_are_refused():
    prompt = make_prompt()
    with pytest.raises(TypeError, match="FooocusPatcher of Fooocus is not patched in place"):
        hosts.attach(make_fooocus(), prompt)
    with pytest.raises(ValueError, match="cond_or_uncond"):
        hosts.patch_model(make_fooocus(), prompt, cond_or_uncond=(1, 0))
    with pytest.raises(TypeError, match=r"torch.*Linear"):
        hosts.patch_model(torch.nn.Linear(1, 1), prompt)


@pytest.mark.parametrize(
    ("structure", "family"), [(host.SD1, "sd1"), (host.SDXL, "sdxl")], ids=["sd1", "sdxl"]
)
def test_the_layers_are_read_off_the_unet(structure, family):
    with torch.device("meta"):
        unet = host.UNet(structure, 320)
    assert read_layer_table(unet) == layer_table(family)
    unet.num_res_blocks = [2] * len(structure.levels)  # as newer hosts have it
    assert read_layer_table(unet) == layer_table(family)


def test_a_unet_of_another_structure_is_refused():
    with torch.device("meta"):
        unet = host.UNet(host.SD1, 32)
    unet.num_res_blocks = 4
    with pytest.raises(ValueError, match="12 input blocks"):
        read_layer_table(unet)
    del unet.num_res_blocks, unet.output_blocks[-1]
    with pytest.raises(ValueError, match="12 input blocks and 11 output blocks"):
        read_layer_table(unet)


class Opaque(torch.nn.Module):
    """A UNet that does not show its layers, as a compiled engine."""


def test_a_unet_that_hides_its_layers_is_taken_for_what_the_keys_fit():
    model = FooocusPatcher(host.BaseModel(Opaque()))
    pairs = [(torch.ones(1, 2, c), torch.ones(1, 2, c)) for c in layer_table("sdxl").channels]
    patched = hosts.patch_model(model, ImagePrompt.from_keys_values(pairs))
    assert len(patched.slots()) == 70 and ("middle", 0, 9) in patched.slots()
    with pytest.raises(ValueError, match="Opaque does not tell"):
        hosts.patch_model(model, make_prompt())


def test_a_context_window_picks_its_own_pictures():
    (conds, unconds), _, _ = make_task(host.SD1, WIDTH, pictures=5)
    prompt = ImagePrompt.from_keys_values(split_pairs(conds), split_pairs(unconds))
    model = make_fooocus()
    slot = hosts.patch_model(model, prompt).slots()["input", 1, 0]
    model.model.diffusion_model.current_step = torch.zeros(1)
    q, text = torch.randn(2, 3, 4, WIDTH).unbind()
    for window in ([1, 2, 3], [4, 0, 1]):
        options = {"n_heads": 2, "cond_or_uncond": [0], "original_shape": [3, 4, 2, 2]}
        out = slot(q, text, text, options | {"ad_params": {"sub_idxs": window}})
        expected = host.attention(q, text, text, 2)
        expected = expected + host.attention(q, conds[0][window], conds[1][window], 2)
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("shown", [True, False])
def test_masks_land_where_the_host_resized_the_features(shown):
    """Some packs shrink the features on the way; the mask must follow the true grid."""
    model = make_fooocus()
    mask = torch.zeros(24, 12)
    mask[:12] = 1
    slot = hosts.patch_model(model, make_prompt(mask=mask)).slots()["input", 1, 0]
    model.model.diffusion_model.current_step = torch.zeros(1)
    height, width = 8, 4  # of a latent of 24 × 12
    q = torch.randn(1, height * width, WIDTH)
    options = {"n_heads": 2, "cond_or_uncond": [0], "original_shape": [1, 4, 24, 12]}
    if shown:
        options["activations_shape"] = [1, WIDTH, height, width]
    text = torch.randn(1, 7, WIDTH)
    out = slot(q, text, text, options) - host.attention(q, text, text, 2)
    top, bottom = out[:, :16].abs().amax(-1), out[:, 16:].abs().amax(-1)
    assert (top > 1e-3).all() and (bottom < 1e-5).all()
