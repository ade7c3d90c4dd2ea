# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Reading the demo's weights: safetensors, fp16, with the recipe as metadata.

`unet.safetensors` has diffusers' own keys, `ip_adapter.safetensors` those of published
IP-Adapters, so both also load elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from attnpatch.demo.classifier import Classifier
from attnpatch.demo.items import Split
from attnpatch.demo.model import ClassTokens, ImageEncoder, make_unet

SHIPPED = Path(__file__).parent / "weights"
REFERENCES = 200
ADAPTER_FILE = "ip_adapter.safetensors"


def load_references(folder: Path = SHIPPED) -> Split:
    """Read the test items that the package carries."""
    tensors = load_file(folder / "references.safetensors")
    return Split(tensors["images"], tensors["labels"].long())


def load_classifier(folder: Path = SHIPPED) -> Classifier:
    """Read the judge, in float32."""
    return _load(Classifier(), folder / "classifier.safetensors")


def load_encoder(folder: Path = SHIPPED) -> ImageEncoder:
    """Read the image encoder, in float32."""
    return _load(ImageEncoder(), folder / "encoder.safetensors")


def load_unet(folder: Path = SHIPPED) -> Any:
    """Read the UNet, in float32."""
    return _load(make_unet(), folder / "unet.safetensors")


def load_text(folder: Path = SHIPPED) -> ClassTokens:
    """Read the class tokens, in float32."""
    return _load(ClassTokens(), folder / "text.safetensors")


def load_adapter_state(folder: Path = SHIPPED) -> dict[str, torch.Tensor]:
    """Read the adapter's flat state dict, in float32."""
    return {key: value.float() for key, value in load_file(folder / ADAPTER_FILE).items()}


def _load(model: nn.Module, path: Path) -> Any:
    state = load_file(path)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval().requires_grad_(False)
