# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Real pipelines of small models, beside what users run with them."""

import threading

import diffusers
import pytest
import torch
from diffusers_models import (
    CONTEXT,
    is_original,
    make_adapter_state,
    make_features,
    make_prompt,
    make_unet,
    storage_of,
)
from peft import LoraConfig

from attnpatch.adapters import load_image_adapter
from attnpatch.hosts import attach, patch_model, report
from attnpatch.patches import ImagePrompt

pytestmark = [
    # diffusers' schedulers hand tensors to numpy in a way that numpy 2 dislikes.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SD = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}


def make_scheduler(name="DDIMScheduler"):
    options = {"clip_sample": False} if name == "DDIMScheduler" else {}
    return getattr(diffusers, name)(**SD, **options)


def make_pipeline(structure="sd1", kind=None, scheduler="DDIMScheduler", **parts):
    """A pipeline without text encoders: prompts come as embeddings, results as latents."""
    parts = {
        "unet": make_unet(structure),
        "scheduler": make_scheduler(scheduler),
        "vae": None,
        "text_encoder": None,
        "tokenizer": None,
    } | parts
    if structure == "sdxl":
        kind = kind or diffusers.StableDiffusionXLPipeline
        parts |= {"text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
    else:
        kind = kind or diffusers.StableDiffusionPipeline
        parts |= {"safety_checker": None, "feature_extractor": None}
        parts["requires_safety_checker"] = False
    pipeline = kind(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def arguments(pipeline, prompts=1, **options):
    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    images = prompts * options.get("num_images_per_prompt", 1)
    inputs = {
        "prompt_embeds": noise(prompts, 7, CONTEXT),
        "negative_prompt_embeds": noise(prompts, 7, CONTEXT),
        "latents": noise(images, 4, 16, 16),
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "height": 128,
        "width": 128,
        "output_type": "latent",
    }
    if "XL" in type(pipeline).__name__:
        inputs["pooled_prompt_embeds"] = noise(prompts, CONTEXT)
        inputs["negative_pooled_prompt_embeds"] = noise(prompts, CONTEXT)
    return inputs | options


def run(pipeline, **options):
    return pipeline(**arguments(pipeline, **options)).images


class OwnAdapter:
    """The pipeline's own IP-Adapter, and our image prompt of the same weights and pictures."""

    def __init__(self, unet, weight=0.8, **options):
        self.state = make_adapter_state(unet, "plus")
        self.weight = weight
        self.cond, self.negative = make_features("plus", 1)
        adapter = load_image_adapter(self.state)
        embeds = adapter.get_image_embeds(self.cond, self.negative)
        self.prompt = ImagePrompt(adapter, embeds, weight, **options)

    def run(self, pipeline, **options):
        pipeline.unet._load_ip_adapter_weights([self.state], low_cpu_mem_usage=False)
        pipeline.set_ip_adapter_scale(self.weight)
        guided = options.get("guidance_scale", 3.0) > 1
        embeds = torch.stack([self.negative, self.cond] if guided else [self.cond])
        found = run(pipeline, ip_adapter_image_embeds=[embeds], **options)
        pipeline.unload_ip_adapter()
        return found


def compare(pipeline, **options):
    own = OwnAdapter(pipeline.unet)
    plain = run(pipeline, **options)
    expected = own.run(pipeline, **options)
    with attach(pipeline, own.prompt):
        found = run(pipeline, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - plain).abs().max() > 0.05
    torch.testing.assert_close(run(pipeline, **options), plain, rtol=0, atol=0)


@pytest.mark.parametrize(("structure", "guidance"), [("sd1", 3.0), ("sd1", 1.0), ("sdxl", 3.0)])
def test_the_same_as_the_pipelines_own_ip_adapter(structure, guidance):
    compare(make_pipeline(structure), guidance_scale=guidance, num_inference_steps=2)


def test_beside_a_controlnet():
    unet = make_unet()
    controlnet = diffusers.ControlNetModel.from_unet(unet).eval()
    torch.nn.init.normal_(controlnet.controlnet_mid_block.weight)
    pipeline = make_pipeline(
        kind=diffusers.StableDiffusionControlNetPipeline, unet=unet, controlnet=controlnet
    )
    compare(pipeline, image=torch.ones(1, 3, 128, 128), num_inference_steps=2)


def add_lora(unet):
    """LoRA of every projection of attention, with weights that matter."""
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets), "style")
    generator = torch.Generator().manual_seed(4)
    for name, weight in unet.named_parameters():
        if "lora_" in name:
            weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.3)


def features():
    def slicing(pipeline):
        pipeline.unet.set_attention_slice(1)

    return {
        "lora": lambda pipeline: add_lora(pipeline.unet),
        "freeu": lambda pipeline: pipeline.enable_freeu(0.9, 0.2, 1.2, 1.4),
        "fused projections": lambda pipeline: pipeline.unet.fuse_qkv_projections(),
        "lora and slicing": lambda pipeline: (add_lora(pipeline.unet), slicing(pipeline)),
    }


@pytest.mark.parametrize("name", features())
@pytest.mark.parametrize("late", [False, True])
def test_beside_what_changes_the_unet(name, late):
    """Each of them gives the same with our image prompt as with the pipeline's own."""
    prepare = features()[name]
    reference, pipeline = make_pipeline(), make_pipeline()
    own = OwnAdapter(pipeline.unet)
    if "slicing" in name or "fused" in name:  # these would throw diffusers' own adapter out
        if "lora" in name:
            add_lora(reference.unet)
    else:
        prepare(reference)
    expected = own.run(reference, num_inference_steps=2)
    if not late:
        prepare(pipeline)
    with attach(pipeline, own.prompt):
        if late:
            prepare(pipeline)
        found = run(pipeline, num_inference_steps=2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_patched_copy_of_a_model_with_lora():
    pipeline = make_pipeline()
    add_lora(pipeline.unet)
    image = make_prompt(pipeline.unet)
    with attach(pipeline, image):
        expected = run(pipeline, num_inference_steps=2)
    patched = patch_model(pipeline, image)
    assert torch.equal(run(patched, num_inference_steps=2), expected)
    patched.unet.disable_adapters()  # of the copy alone
    assert not torch.equal(run(patched, num_inference_steps=2), expected)
    with attach(pipeline, image):
        assert torch.equal(run(pipeline, num_inference_steps=2), expected)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_perturbed_attention_guidance(guidance):
    pipeline = make_pipeline(
        kind=diffusers.StableDiffusionPAGPipeline, image_encoder=None, pag_applied_layers="mid"
    )
    processors = pipeline.unet.attn_processors
    compare(pipeline, pag_scale=2.0, guidance_scale=guidance, num_inference_steps=2)
    with attach(pipeline, make_prompt(pipeline.unet)):
        run(pipeline, pag_scale=2.0)
    assert pipeline.unet.attn_processors.keys() == processors.keys()
    assert is_original(pipeline.unet)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("window", [(0.0, 0.4), (0.3, 0.8), (0.6, 1.0)])
def test_windows(scheduler, window):
    """As the pipeline's own adapter, whose scale a callback sets for every step."""
    pipeline = make_pipeline(scheduler=scheduler)
    start, end = window
    own = OwnAdapter(pipeline.unet, start=start, end=end)
    with attach(pipeline, own.prompt):
        found = run(pipeline)

    pipeline.scheduler.set_timesteps(4)
    active = [start <= 1 - float(t) / 999 <= end or end == 1 for t in pipeline.scheduler.timesteps]
    active = [
        a and (start == 0 or 1 - float(t) / 999 >= start)
        for a, t in zip(active, pipeline.scheduler.timesteps, strict=True)
    ]
    assert 0 < sum(active) < 4
    pipeline.unet._load_ip_adapter_weights([own.state], low_cpu_mem_usage=False)
    pipeline.set_ip_adapter_scale(0.8 * active[0])

    def set_scale(_, step, __, tensors):
        if step < 3:
            pipeline.set_ip_adapter_scale(0.8 * active[step + 1])
        return tensors

    embeds = [torch.stack([own.negative, own.cond])]
    expected = run(pipeline, ip_adapter_image_embeds=embeds, callback_on_step_end=set_scale)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_picture_for_each_prompt_and_several_images_of_each():
    pipeline = make_pipeline()
    image = make_prompt(pipeline.unet, pictures=2)
    inputs = arguments(pipeline, prompts=2, num_images_per_prompt=3, num_inference_steps=2)
    with attach(pipeline, image):
        found = pipeline(**inputs).images
    singles = []
    for i in range(2):
        kv = image.keys_values
        rows = [kv.parts[0].layers, [i], [kv.pictures + i]]
        cond, uncond = ([(k[r], v[r]) for k, v in rows[0]] for r in rows[1:])
        one = ImagePrompt.from_keys_values(cond, uncond, 0.8)
        part = {
            "prompt_embeds": inputs["prompt_embeds"][i : i + 1],
            "negative_prompt_embeds": inputs["negative_prompt_embeds"][i : i + 1],
            "latents": inputs["latents"][3 * i : 3 * i + 3],
        }
        with attach(pipeline, one):
            singles.append(pipeline(**(inputs | part)).images)
    torch.testing.assert_close(found, torch.cat(singles), rtol=0, atol=1e-4)


def test_the_last_picture_serves_all_images_after_it():
    """Nothing is spread over the images of a prompt where the last picture is held."""
    pipeline = make_pipeline()
    image = make_prompt(pipeline.unet, pictures=2).replace(repeat_last=True)
    inputs = arguments(pipeline, num_images_per_prompt=4, num_inference_steps=2)
    with attach(pipeline, image):
        found = pipeline(**inputs).images
    kv = image.keys_values
    rows = [0, 1, 1, 1]
    cond, uncond = (
        [(k[where], v[where]) for k, v in kv.parts[0].layers]
        for where in (rows, [kv.pictures + row for row in rows])
    )
    with attach(pipeline, ImagePrompt.from_keys_values(cond, uncond, 0.8)):
        expected = pipeline(**inputs).images
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_an_ip_adapter_that_comes_and_goes():
    """Loaded, scaled and unloaded while ours is attached; both count while both are there."""
    pipeline = make_pipeline()
    image, own = make_prompt(pipeline.unet, seed=9), OwnAdapter(pipeline.unet)
    short = {"num_inference_steps": 2}
    with attach(pipeline, [image, own.prompt]):
        both = run(pipeline, **short)
    attached = attach(pipeline, image)
    ours = run(pipeline, **short)
    torch.testing.assert_close(own.run(pipeline, **short), both, rtol=0, atol=1e-4)
    torch.testing.assert_close(run(pipeline, **short), ours, rtol=0, atol=1e-5)
    attached.detach()
    assert is_original(pipeline.unet)

    # The other way round: there before ours, and scaled and unloaded after it.
    pipeline.unet._load_ip_adapter_weights([own.state], low_cpu_mem_usage=False)
    embeds = {"ip_adapter_image_embeds": [torch.stack([own.negative, own.cond])]}
    attached = attach(pipeline, image)
    pipeline.set_ip_adapter_scale(0.8)
    torch.testing.assert_close(run(pipeline, **short, **embeds), both, rtol=0, atol=1e-4)
    pipeline.set_ip_adapter_scale(0.0)
    torch.testing.assert_close(run(pipeline, **short, **embeds), ours, rtol=0, atol=1e-5)
    pipeline.unload_ip_adapter()
    torch.testing.assert_close(run(pipeline, **short), ours, rtol=0, atol=1e-5)
    attached.detach()
    assert is_original(pipeline.unet)


def test_patch_model_makes_a_pipeline_that_runs_beside_the_first():
    pipeline = make_pipeline(scheduler="EulerDiscreteScheduler")
    image = make_prompt(pipeline.unet)
    plain = run(pipeline)
    with attach(pipeline, image):
        expected = run(pipeline)
    patched = patch_model(pipeline, image)
    assert type(patched) is type(pipeline)
    assert storage_of(patched.unet) == storage_of(pipeline.unet)
    assert patched.scheduler is not pipeline.scheduler
    assert patched.components.keys() == pipeline.components.keys()
    assert len(report(patched).matched) == 16
    assert is_original(pipeline.unet)

    found = {}
    threads = [
        threading.Thread(target=lambda name=name, p=p: found.__setitem__(name, run(p)))
        for name, p in (("plain", pipeline), ("patched", patched))
    ]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert torch.equal(found["plain"], plain)
    assert torch.equal(found["patched"], expected)
    assert torch.equal(run(patch_model(patched, image.replace(weight=0.0))), expected)


def test_image_to_image_begins_in_the_middle():
    pipeline = make_pipeline(kind=diffusers.StableDiffusionImg2ImgPipeline)
    inputs = arguments(pipeline, strength=0.5, image=torch.ones(1, 4, 16, 16))
    del inputs["latents"], inputs["height"], inputs["width"]

    def latents(**options):
        generator = torch.Generator().manual_seed(0)
        with attach(pipeline, make_prompt(pipeline.unet, **options)):
            return pipeline(**inputs, generator=generator).images

    early, late = latents(end=0.4), latents(start=0.6)
    assert torch.equal(early, latents(weight=0.0))  # that part is not sampled
    assert not torch.equal(late, early)


def test_weights_on_another_device_until_they_are_used():
    """Sequential offloading of accelerate: modules have their weights only while they run."""
    from accelerate import cpu_offload

    unet = make_unet()
    pipeline = make_pipeline(unet=unet)
    own = OwnAdapter(unet)
    with attach(pipeline, own.prompt):
        expected = run(pipeline, num_inference_steps=2)
    cpu_offload(unet, execution_device=torch.device("cpu"))
    assert {p.device.type for p in unet.parameters()} == {"meta"}
    patched = patch_model(pipeline, own.prompt)
    with attach(pipeline, own.prompt):
        for someone in (pipeline, patched):
            found = run(someone, num_inference_steps=2)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        unet.set_attention_slice(1)
        found = run(pipeline, num_inference_steps=2)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_masks_of_the_pipelines_own_adapter_pass_through():
    """`cross_attention_kwargs` reach the processor that knows them."""
    pipeline = make_pipeline()
    own = OwnAdapter(pipeline.unet)
    image = make_prompt(pipeline.unet, seed=9)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1.0
    masked = {"cross_attention_kwargs": {"ip_adapter_masks": [mask]}, "num_inference_steps": 2}
    ours = own.prompt.replace(mask=mask[0, 0], mask_resize="bicubic")
    with attach(pipeline, [image, ours]):
        expected = run(pipeline, num_inference_steps=2)
    with attach(pipeline, image):
        found = own.run(pipeline, **masked)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
