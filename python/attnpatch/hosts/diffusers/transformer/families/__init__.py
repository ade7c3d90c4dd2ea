# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The families of transformers that take patches, by the names of their classes."""

from attnpatch.hosts.diffusers.transformer.families.flux import Flux
from attnpatch.hosts.diffusers.transformer.families.flux2 import Flux2
from attnpatch.hosts.diffusers.transformer.families.krea2 import Krea2
from attnpatch.hosts.diffusers.transformer.families.qwen_image import QwenImage
from attnpatch.hosts.diffusers.transformer.families.sd3 import SD3
from attnpatch.hosts.diffusers.transformer.families.z_image import ZImage
from attnpatch.hosts.diffusers.transformer.sequence import Family

__all__ = ["FAMILIES"]

FAMILIES: dict[str, Family] = {
    "ChromaTransformer2DModel": Flux(),
    "Flux2Transformer2DModel": Flux2(),
    "FluxTransformer2DModel": Flux(),
    "Krea2Transformer2DModel": Krea2(),
    "QwenImageTransformer2DModel": QwenImage(),
    "SD3Transformer2DModel": SD3(),
    "ZImageTransformer2DModel": ZImage(),
}
