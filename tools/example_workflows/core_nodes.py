# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The host's own nodes that the examples use."""

from __future__ import annotations

Inputs = dict[str, str]  # each input's name and kind
Outputs = list[tuple[str, str]]  # each output's name and kind

# By type. CONTROL is a widget of the editor alone.
CORE: dict[str, tuple[Inputs, Outputs]] = {
    "CheckpointLoaderSimple": (
        {"ckpt_name": "COMBO"},
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE")],
    ),
    "CLIPVisionLoader": ({"clip_name": "COMBO"}, [("CLIP_VISION", "CLIP_VISION")]),
    "CLIPTextEncode": ({"clip": "CLIP", "text": "STRING"}, [("CONDITIONING", "CONDITIONING")]),
    "EmptyLatentImage": (
        {"width": "INT", "height": "INT", "batch_size": "INT"},
        [("LATENT", "LATENT")],
    ),
    "KSampler": (
        {
            "model": "MODEL",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "latent_image": "LATENT",
            "seed": "INT",
            "control_after_generate": "CONTROL",
            "steps": "INT",
            "cfg": "FLOAT",
            "sampler_name": "COMBO",
            "scheduler": "COMBO",
            "denoise": "FLOAT",
        },
        [("LATENT", "LATENT")],
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, [("IMAGE", "IMAGE")]),
    "SaveImage": ({"images": "IMAGE", "filename_prefix": "STRING"}, []),
    "PreviewImage": ({"images": "IMAGE"}, []),
    "LoadImage": (
        {"image": "COMBO", "upload": "CONTROL"},
        [("IMAGE", "IMAGE"), ("MASK", "MASK")],
    ),
    "SolidMask": ({"value": "FLOAT", "width": "INT", "height": "INT"}, [("MASK", "MASK")]),
    "InvertMask": ({"mask": "MASK"}, [("MASK", "MASK")]),
    "MaskComposite": (
        {"destination": "MASK", "source": "MASK", "x": "INT", "y": "INT", "operation": "COMBO"},
        [("MASK", "MASK")],
    ),
    "PreviewAny": ({"source": "*"}, []),
    "UNETLoader": ({"unet_name": "COMBO", "weight_dtype": "COMBO"}, [("MODEL", "MODEL")]),
    "CLIPLoader": ({"clip_name": "COMBO", "type": "COMBO", "device": "COMBO"}, [("CLIP", "CLIP")]),
    "DualCLIPLoader": (
        {"clip_name1": "COMBO", "clip_name2": "COMBO", "type": "COMBO", "device": "COMBO"},
        [("CLIP", "CLIP")],
    ),
    "VAELoader": ({"vae_name": "COMBO"}, [("VAE", "VAE")]),
    "VAEEncode": ({"pixels": "IMAGE", "vae": "VAE"}, [("LATENT", "LATENT")]),
    "EmptySD3LatentImage": (
        {"width": "INT", "height": "INT", "batch_size": "INT"},
        [("LATENT", "LATENT")],
    ),
    "FluxGuidance": (
        {"conditioning": "CONDITIONING", "guidance": "FLOAT"},
        [("CONDITIONING", "CONDITIONING")],
    ),
    "ReferenceLatent": (
        {"conditioning": "CONDITIONING", "latent": "LATENT"},
        [("CONDITIONING", "CONDITIONING")],
    ),
    "ConditioningZeroOut": (
        {"conditioning": "CONDITIONING"},
        [("CONDITIONING", "CONDITIONING")],
    ),
    "TextEncodeQwenImageEditPlus": (
        {
            "clip": "CLIP",
            "prompt": "STRING",
            "vae": "VAE",
            "image1": "IMAGE",
            "image2": "IMAGE",
            "image3": "IMAGE",
        },
        [("CONDITIONING", "CONDITIONING")],
    ),
}
