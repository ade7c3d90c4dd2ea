# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""The shipped adapter gives one result through training's processors, diffusers and attnpatch."""

import pytest
import torch

import attnpatch as ap
from attnpatch.demo import store
from attnpatch.demo.model import EMBED_DIM, NULL_CLASS
from fashion_mnist import weights

WEIGHT = 0.7


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(4, 4, 16, 16, generator=generator),
        "timestep": torch.tensor(400),
        "classes": torch.tensor([NULL_CLASS, NULL_CLASS, 2, 7]),
        "embeds": torch.cat(
            [torch.zeros(2, EMBED_DIM), torch.randn(2, EMBED_DIM, generator=generator)]
        ),
    }


@pytest.fixture(scope="module")
def trained(inputs):
    model = weights.load_denoiser()
    with torch.inference_mode():
        return model(
            inputs["latents"],
            inputs["timestep"],
            inputs["classes"],
            inputs["embeds"],
            torch.full((4,), WEIGHT),
        )


def test_diffusers_own_adapter_agrees(inputs, trained):
    unet, text = store.load_unet(), store.load_text()
    groups = {"image_proj": {}, "ip_adapter": {}}
    for key, value in store.load_adapter_state().items():
        group, name = key.split(".", 1)
        groups[group][name] = value
    unet._load_ip_adapter_weights([groups], low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [WEIGHT]
    with torch.inference_mode():
        found = unet(
            inputs["latents"],
            inputs["timestep"],
            text(inputs["classes"]),
            added_cond_kwargs={"image_embeds": [inputs["embeds"][:, None]]},
            return_dict=False,
        )[0]
    torch.testing.assert_close(found, trained, rtol=0, atol=1e-4)


def test_attnpatch_agrees(inputs, trained):
    from attnpatch.demo.pipeline import FashionPipeline

    pipeline = FashionPipeline.shipped()
    adapter = ap.load_image_adapter(store.SHIPPED / store.ADAPTER_FILE, dtype=torch.float32)
    embeds = adapter.get_image_embeds(inputs["embeds"][2:], combine=None)
    text = store.load_text()(inputs["classes"])
    prompt = ap.ImagePrompt(adapter, embeds, WEIGHT)
    with torch.inference_mode(), ap.attach(pipeline, prompt, cond_or_uncond=(1, 0)):
        found = pipeline.unet(inputs["latents"], inputs["timestep"], text, return_dict=False)[0]
    torch.testing.assert_close(found, trained, rtol=0, atol=1e-4)
    assert adapter.kind == "linear"
    assert adapter.family == "custom"
