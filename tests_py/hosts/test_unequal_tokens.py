# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Cond and uncond of different numbers of image tokens: in every host each row has its own alone.

An image prompt of both is what two prompts are, each of which serves the rows of one kind.
"""

import pytest
import torch
from comfyui_oracle import make_pairs, relative
from diffusers_models import make_adapter_state, make_unet, unet_inputs
from protocol_sampling import make_comfy, make_conds, sample
from protocol_unet import SD1

import attnpatch as ap
from attnpatch import ImagePrompt, load_image_adapter

FORMS = pytest.mark.parametrize(
    "options", [{}, {"shared_softmax": True}, {"scaling": "K+V"}, {"mask": torch.eye(4)}], ids=str
)
EACH = {"rtol": 1e-4, "atol": 1e-5}


def one_kind(cond, uncond, make, **options):
    """Two prompts that together do what one of (cond, uncond) does."""
    return [
        make(cond, None, roles={1: "off"}, **options),
        make(uncond, None, roles={0: "off", 1: "cond"}, **options),
    ]


@FORMS
@pytest.mark.parametrize("kinds", [(1, 0), (0, 1), (0,), (1,), (1, 0, 0, 1)], ids=str)
@pytest.mark.parametrize("counts", [(8, 4), (4, 12)])
def test_diffusers(options, kinds, counts):
    unet = make_unet()
    adapter = load_image_adapter(make_adapter_state(unet, "linear"))
    cond, uncond = (torch.randn(1, n, 64, generator=torch.manual_seed(n)) for n in counts)

    def make(cond, uncond, **options):
        return ImagePrompt(adapter, (cond, uncond), 0.8, **options)

    inputs = unet_inputs(unet, batch=len(kinds))
    together = make(cond, uncond, **options)
    assert len(together.keys_values.parts) == 2
    with torch.no_grad():
        plain = unet(**inputs).sample
        with ap.attach(unet, together, cond_or_uncond=kinds):
            found = unet(**inputs).sample
        with ap.attach(unet, one_kind(cond, uncond, make, **options), cond_or_uncond=kinds):
            expected = unet(**inputs).sample
    torch.testing.assert_close(found, expected, **EACH)
    assert (found - plain).abs().flatten(1).amax(1).min() > 1e-3  # every row has its own


def shortened(pairs, tokens):
    return [tuple(part[:, :tokens] for part in pair) for pair in pairs]


@FORMS
@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_comfyui(options, scale):
    model = make_comfy(SD1)
    x, conds = make_conds(SD1)
    cond, uncond = make_pairs(SD1)
    uncond = shortened(uncond, 3)

    def make(cond, uncond, **options):
        return ImagePrompt.from_keys_values(cond, uncond, 0.8, **options)

    together = sample(ap.patch_model(model, make(cond, uncond, **options)), x, conds, scale=scale)
    two = one_kind(cond, uncond, make, **options)
    expected = sample(ap.patch_model(model, two), x, conds, scale=scale)
    torch.testing.assert_close(together, expected, **EACH)
    assert relative(together, sample(model, x, conds, scale=scale)) > 1e-3
