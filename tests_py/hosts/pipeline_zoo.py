# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Any pipeline of diffusers that has a UNet, made of small models with random weights."""

import functools
import importlib
import inspect
import math
import pkgutil
from dataclasses import dataclass
from types import SimpleNamespace

import diffusers
import torch
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet
from transformers import (
    BatchEncoding,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.utils import ModelOutput

from attnpatch.adapters import load_image_adapter
from attnpatch.patches import ImagePrompt

CONTEXT, TOKENS, FRAMES, SIZE = 16, 3, 2, 64  # SIZE in pixels

LEVELS = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": CONTEXT,
    "attention_head_dim": 2,
}
VIDEO_LEVELS = LEVELS | {
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
}
SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + CONTEXT,
    "use_linear_projection": True,
}
KOLORS = SDXL | {"encoder_hid_dim": 2 * CONTEXT, "encoder_hid_dim_type": "text_proj"}
CHANNELS = {"InstructPix2Pix": 8, "Upscale": 7, "Depth2Img": 5, "Marigold": 8}
CHANNELS |= {"PaintByExample": 9, "MarigoldIntrinsics": 12}
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def pipeline_modules():
    """Import all modules of pipelines that can be imported here."""
    package = importlib.import_module("diffusers.pipelines")
    for found in pkgutil.walk_packages(package.__path__, "diffusers.pipelines."):
        if ".pipeline_" in found.name or "modeling" in found.name:
            yield importlib.import_module(found.name)


@functools.cache
def pipelines_with_unets():
    """All classes of pipelines that are given a UNet, by name."""
    classes = {}
    for module in pipeline_modules():
        for name, kind in vars(module).items():
            if not inspect.isclass(kind) or kind.__module__ != module.__name__:
                continue
            if not issubclass(kind, diffusers.DiffusionPipeline):
                continue
            parts = inspect.signature(kind.__init__).parameters
            if any("unet" in part or "UNet" in str(of.annotation) for part, of in parts.items()):
                classes[name] = kind
    return classes


def seeded(make):
    """Make something with weights that are always the same, and no global generator touched."""

    @functools.cache
    @functools.wraps(make)
    def seeded_make(*args):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make(*args).eval().requires_grad_(False)

    return seeded_make


@seeded
def make_vae(out_channels=3):
    return diffusers.AutoencoderKL(
        out_channels=out_channels,
        block_out_channels=(4,) * 4,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=4,
        latent_channels=4,
    )


@seeded
def make_unet(name):
    """The UNet that a class of pipelines is given."""
    channels = [count for part, count in CHANNELS.items() if part in name]
    config = LEVELS | {"in_channels": channels[-1] if channels else 4, "out_channels": 4}
    if name == "MarigoldIntrinsicsPipeline":
        config["out_channels"] = 8
    if "Kolors" in name or ("XL" in name and "I2V" not in name):
        config |= KOLORS if "Kolors" in name else SDXL
    if "Kolors" in name:
        config["projection_class_embeddings_input_dim"] = 6 * 8 + CONTEXT
    if name in ("TextToVideoSDPipeline", "VideoToVideoSDPipeline"):
        return diffusers.UNet3DConditionModel(**(config | VIDEO_LEVELS))
    if name == "I2VGenXLPipeline":
        return I2VGenXLUNet(**(config | VIDEO_LEVELS | {"attention_head_dim": 4}))
    if name.startswith("StableUnCLIP"):
        config |= {
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": 2 * CONTEXT,
        }
    if name.startswith("LatentConsistency"):
        config["time_cond_proj_dim"] = 8
    if name == "StableDiffusionUpscalePipeline":
        config["num_class_embeds"] = 1000
    if "GLIGEN" in name:
        config["attention_type"] = "gated-text-image" if "TextImage" in name else "gated"
    unet = diffusers.UNet2DConditionModel(**config)
    if "AnimateDiff" not in name and name != "PIAPipeline":
        return unet
    adapter = make_motion_adapter(name)
    return diffusers.UNetMotionModel.from_unet2d(unet, adapter)


@seeded
def make_motion_adapter(name):
    return diffusers.MotionAdapter(
        block_out_channels=LEVELS["block_out_channels"],
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
        motion_max_seq_length=8,
        conv_in_channels=9 if name == "PIAPipeline" else None,
    )


@seeded
def make_controlnet(name):
    options = {k: v for k, v in LEVELS.items() if k not in ("sample_size", "up_block_types")}
    if "XL" in name:
        options |= SDXL
    if "Sparse" in name:
        options["down_block_types"] = ("CrossAttnDownBlockMotion", "DownBlockMotion")
        del options["attention_head_dim"]
        options |= {"num_attention_heads": 2, "motion_num_attention_heads": 2}
        return diffusers.SparseControlNetModel(**options, concat_conditioning_mask=True)
    kind = diffusers.ControlNetUnionModel if "Union" in name else diffusers.ControlNetModel
    if "Union" in name:
        options |= {
            "num_control_type": 6,
            "num_trans_channel": 8,
            "num_trans_head": 2,
            "num_proj_channel": 8,
        }
    controlnet = kind(**options, conditioning_embedding_out_channels=(4,) * 4)
    for block in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        torch.nn.init.normal_(block.weight, std=0.3)
    return controlnet


@seeded
def make_image_encoder(name):
    config = CLIPVisionConfig(
        hidden_size=CONTEXT,
        intermediate_size=CONTEXT,
        projection_dim=CONTEXT,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
    )
    if name == "PaintByExamplePipeline":
        module = importlib.import_module("diffusers.pipelines.deprecated.paint_by_example")
        return module.PaintByExampleImageEncoder(config, proj_size=CONTEXT)
    return CLIPVisionModelWithProjection(config)


@seeded
def make_t2i_adapter():
    channels = list(LEVELS["block_out_channels"])
    return diffusers.T2IAdapter(3, channels, num_res_blocks=1, downscale_factor=8)


@seeded
def make_normalizer():
    module = importlib.import_module(
        "diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer"
    )
    return module.StableUnCLIPImageNormalizer(CONTEXT)


def make_scheduler(name):
    if name.startswith("LatentConsistency"):
        return diffusers.LCMScheduler(**SCHEDULE, original_inference_steps=50)
    return diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, steps_offset=1)


def make_pipeline(name, **changes):
    """A pipeline of that class; prompts are given as embeddings."""
    # diffusers exports Kolors' only beside packages that its texts need.
    kind = pipelines_with_unets()[name] if "Kolors" in name else getattr(diffusers, name)
    unet = make_unet(name)
    parts = {
        "unet": unet,
        "vae": make_vae(),
        "scheduler": make_scheduler(name),
        "requires_safety_checker": False,
        "add_watermarker": False,
        "pag_applied_layers": "mid",
        "feature_extractor": CLIPImageProcessor(size=64, crop_size=64),
    }
    makers = {
        "controlnet": lambda: make_controlnet(name),
        "motion_adapter": lambda: make_motion_adapter(name),
        "adapter": make_t2i_adapter,
        "image_encoder": lambda: make_image_encoder(name) if name in WITH_IMAGE_ENCODER else None,
        "low_res_scheduler": lambda: diffusers.DDPMScheduler(**SCHEDULE),
        "image_normalizer": make_normalizer,
        "image_noising_scheduler": lambda: diffusers.DDPMScheduler(**SCHEDULE),
    }
    signature = inspect.signature(kind.__init__).parameters
    if any(part in name for part in ("GLIGEN", "LDM", "Semantic")):
        parts |= {"tokenizer": Tokenizer(), "text_encoder": TextEncoder(), "bert": TextEncoder()}
    if "LDM3D" in name:
        parts |= {"vae": make_vae(6), "tokenizer": None, "text_encoder": None}
    parts["vqvae"] = make_vae()
    if "Marigold" in name:
        parts |= {"prediction_type": "depth", "default_denoising_steps": 2}
        parts["target_properties"] = {"target_names": ["a", "b"]}
    parts = {part: value for part, value in parts.items() if part in signature}
    for part, of in list(signature.items())[1:]:
        if part in changes:
            parts[part] = changes[part]
        elif part in makers:
            parts[part] = makers[part]()
        elif part not in parts and of.default is inspect.Parameter.empty:
            parts[part] = None
    pipeline = kind(**parts)
    if "Marigold" in name:
        pipeline.empty_text_embedding = noise(1, TOKENS, CONTEXT)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


WITH_IMAGE_ENCODER = (
    "I2VGenXLPipeline",
    "PaintByExamplePipeline",
    "StableDiffusionImageVariationPipeline",
    "StableUnCLIPImg2ImgPipeline",
)


def make_adapter_state(unet):
    """An IP-Adapter of four tokens for the layers that attend to text, not those along time."""
    generator = torch.Generator().manual_seed(2)

    def weight(*shape):
        return torch.randn(*shape, generator=generator) / math.sqrt(shape[-1])

    along_time = ("motion_modules", "temp_attentions", "transformer_in")
    names = [n for n in unet.attn_processors if n.endswith("attn2.processor")]
    sites = {}
    for i, name in enumerate(n for n in names if not any(part in n for part in along_time)):
        channels = unet.get_submodule(name.removesuffix(".processor")).inner_dim
        sites[f"{2 * i + 1}.to_k_ip.weight"] = 2 * weight(channels, CONTEXT)
        sites[f"{2 * i + 1}.to_v_ip.weight"] = 2 * weight(channels, CONTEXT)
    projection = {"proj.weight": weight(4 * CONTEXT, 8), "proj.bias": weight(4 * CONTEXT)}
    projection |= {"norm.weight": 1 + weight(CONTEXT), "norm.bias": weight(CONTEXT)}
    return {"image_proj": projection, "ip_adapter": sites}


COND_PICTURE, UNCOND_PICTURE = 20, 21  # seeds of features


def make_image_prompt(unet, pictures=1, **options):
    adapter = load_image_adapter(make_adapter_state(unet))
    cond, uncond = (noise(pictures, 8, seed=seed) for seed in (COND_PICTURE, UNCOND_PICTURE))
    embeds = adapter.get_image_embeds(cond, uncond, combine="batch")
    return ImagePrompt(adapter, embeds, 0.8, **options)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(seed=2, channels=3, count=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, SIZE, SIZE, generator=generator)


def arguments(pipeline, prompts=1, **options):
    """What a pipeline is called with: all that its kind asks for."""
    name = type(pipeline).__name__
    known = inspect.signature(inspect.unwrap(type(pipeline).__call__)).parameters
    width = 2 * CONTEXT if "Kolors" in name else CONTEXT
    inputs = {
        "prompt_embeds": noise(prompts, TOKENS, width, seed=3),
        "negative_prompt_embeds": noise(prompts, TOKENS, width, seed=4),
        "pooled_prompt_embeds": noise(prompts, CONTEXT, seed=5),
        "negative_pooled_prompt_embeds": noise(prompts, CONTEXT, seed=6),
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "height": SIZE,
        "width": SIZE,
        "num_frames": FRAMES,
        "decode_chunk_size": 2,
        "video": [picture(seed=7, count=FRAMES)],
        "strength": 0.9,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(8),
        "mask_image": picture(seed=9, channels=1).round(),
        "control_image": picture(seed=10),
        "conditioning_frames": [picture(seed=11)[0]] * FRAMES,
        "depth_map": picture(seed=12, channels=1)[:, 0],
    }
    if "image" in known:
        inputs["image"] = picture(count=prompts)
    inputs = {key: value for key, value in inputs.items() if key in known}
    return inputs | SPECIAL.get(name, {}) | options


class Tokenizer:
    """Stands for a tokenizer: the numbers of its tokens are lengths of prompts."""

    model_max_length = TOKENS

    def __call__(self, prompts, **_):
        prompts = [prompts] if isinstance(prompts, str) else prompts
        ids = torch.tensor([[len(prompt)] * TOKENS for prompt in prompts])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


class TextEncoder(torch.nn.Module):
    """Stands for a text encoder: equal prompts have equal embeddings."""

    dtype, device = torch.float32, torch.device("cpu")
    config = SimpleNamespace(use_attention_mask=False)

    def forward(self, input_ids, **_):
        rows = torch.cat([noise(1, TOKENS, CONTEXT, seed=int(row[0])) for row in input_ids])
        return TextOutput(last_hidden_state=rows, pooler_output=rows[:, 0])


@dataclass
class TextOutput(ModelOutput):
    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None


MARIGOLD = {"processing_resolution": 0, "output_type": "pt"}
UNION = {"control_image": [picture(seed=10)], "control_mode": [0]}
POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
SPECIAL = {
    **dict.fromkeys(
        (
            "StableDiffusionXLControlNetUnionPipeline",
            "StableDiffusionXLControlNetUnionImg2ImgPipeline",
            "StableDiffusionXLControlNetUnionInpaintPipeline",
        ),
        UNION,
    ),
    "PaintByExamplePipeline": {"example_image": picture(seed=13)},
    "StableDiffusionAttendAndExcitePipeline": {
        "prompt": None,
        "token_indices": [[1]],
        "attn_res": (4, 4),
    },
    "StableDiffusionGLIGENPipeline": {"gligen_phrases": ["a"], "gligen_boxes": [[0, 0, 0.5, 0.5]]},
    "StableDiffusionGLIGENTextImagePipeline": {
        "gligen_phrases": ["a"],
        "gligen_boxes": [[0, 0, 0.5, 0.5]],
    },
    "AnimateDiffVideoToVideoControlNetPipeline": {
        "video": [picture(seed=i)[0] for i in range(FRAMES)]
    },
    "LDMTextToImagePipeline": {"prompt": ["abc"], "output_type": "np"},
    "SemanticStableDiffusionPipeline": {"prompt": "abc"},
    "StableDiffusionLDM3DPipeline": {"output_type": "np"},
    "LatentConsistencyModelPipeline": {"original_inference_steps": 50},
    "LatentConsistencyModelImg2ImgPipeline": {"original_inference_steps": 50},
    "AnimateDiffSparseControlNetPipeline": {"conditioning_frames": [picture(seed=11)]},
    "MarigoldDepthPipeline": MARIGOLD,
    "MarigoldNormalsPipeline": MARIGOLD,
    "MarigoldIntrinsicsPipeline": MARIGOLD,
}
