# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image prompts of real adapters: from a checkpoint's tensors to attention."""

import pytest
import torch

from attnpatch.adapters import load_image_adapter
from attnpatch.engine import PatchStack
from attnpatch.patches import ImagePrompt


@pytest.fixture
def checkpoint(table):
    """A linear adapter of the small UNet: 4 tokens of 16 values from 8 features."""

    def make(seed=0):
        generator = torch.Generator().manual_seed(seed)

        def random(*shape):
            return torch.randn(*shape, generator=generator)

        state = {
            "image_proj.proj.weight": random(4 * 16, 8),
            "image_proj.proj.bias": random(4 * 16),
            "image_proj.norm.weight": random(16),
            "image_proj.norm.bias": random(16),
        }
        for layer in table:
            for name in ("k", "v"):
                key = f"ip_adapter.{2 * layer.index + 1}.to_{name}_ip.weight"
                state[key] = random(layer.channels, 16)
        return state

    return make


def test_from_checkpoint_to_attention(checkpoint, table, site, qkv, formulas):
    state = checkpoint()
    adapter = load_image_adapter(state)
    image = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    embeds = adapter.get_image_embeds(image)
    prompt = ImagePrompt(adapter, embeds, 0.6)
    assert prompt.keys_values.channels == adapter.channels == table.channels
    here = site(8, chunks=(1, 0), batch=2)  # the middle block: the checkpoint's last pair
    q, k, v = qkv(here)
    out = PatchStack([prompt]).bind(table).attend(here, q, k, v, heads=2)
    weights = [state[f"ip_adapter.17.to_{name}_ip.weight"].double() for name in ("k", "v")]
    for row, tokens in enumerate([embeds.uncond[0], embeds.cond[0]]):
        keys, values = (tokens.double() @ weight.T for weight in weights)
        image_term = formulas.attention(q[row], keys, values)
        expected = formulas.attention(q[row], k[row], v[row]) + 0.6 * image_term
        torch.testing.assert_close(out[row].double(), expected, rtol=1e-4, atol=1e-4)


def test_several_images_concatenated_or_apart(checkpoint):
    adapter = load_image_adapter(checkpoint())
    images = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    together = ImagePrompt(adapter, adapter.get_image_embeds(images))
    apart = ImagePrompt(adapter, adapter.get_image_embeds(images, combine="batch"))
    assert (together.samples, together.keys_values.tokens) == (1, 12)
    assert (apart.samples, apart.keys_values.tokens) == (3, 4)


def test_repr_names_the_adapter(checkpoint):
    adapter = load_image_adapter(checkpoint())
    prompt = ImagePrompt(adapter, adapter.get_image_embeds(torch.ones(1, 8)))
    assert f"<{adapter.kind} custom {adapter.digest[:12]}>" in repr(prompt)


def test_embeds_of_another_adapter_are_refused(checkpoint):
    adapter, other = (load_image_adapter(checkpoint(seed)) for seed in range(2))
    embeds = other.get_image_embeds(torch.ones(1, 8))
    with pytest.raises(ValueError, match=f"{other.digest[:12]}.*{adapter.digest[:12]}"):
        ImagePrompt(adapter, embeds)
