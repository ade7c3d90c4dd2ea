# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Reading and writing the demo's weights: safetensors, fp16, with the recipe as metadata.

`unet.safetensors` has diffusers' own keys, `ip_adapter.safetensors` those of published
IP-Adapters, so both also load elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from attnpatch.demo.classifier import Classifier
from attnpatch.demo.data import Split
from attnpatch.demo.model import Adapter, ClassTokens, Denoiser, ImageEncoder, make_unet
from attnpatch.demo.recipe import Recipe

SHIPPED = Path(__file__).parent / "weights"
REFERENCES = 200
ADAPTER_FILE = "ip_adapter.safetensors"


def save_classifier(folder: Path, model: Classifier, recipe: Recipe) -> None:
    """Write `classifier.safetensors`."""
    _save(folder, "classifier.safetensors", model.state_dict(), recipe)


def save_encoder(folder: Path, model: ImageEncoder, recipe: Recipe) -> None:
    """Write `encoder.safetensors`."""
    _save(folder, "encoder.safetensors", model.state_dict(), recipe)


def save_references(folder: Path, split: Split, count: int = REFERENCES) -> None:
    """Write `references.safetensors`: the first items of the test split, for the demo."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "images": split.images[:count].contiguous(),
        "labels": split.labels[:count].to(torch.uint8),
    }
    metadata = {
        "source": f"Fashion-MNIST, test items 0 to {count - 1}",
        "copyright": "2017 Zalando SE, https://tech.zalando.com",
        "license": "MIT",
    }
    save_file(tensors, folder / "references.safetensors", metadata=metadata)


def load_references(folder: Path = SHIPPED) -> Split:
    """Read the test items that the package carries."""
    tensors = load_file(folder / "references.safetensors")
    return Split(tensors["images"], tensors["labels"].long())


def save_denoiser(
    folder: Path, unet: Any, text: ClassTokens, adapter: Adapter, recipe: Recipe
) -> None:
    """Write `unet.safetensors`, `text.safetensors` and `ip_adapter.safetensors`."""
    own = {key: value for key, value in unet.state_dict().items() if "_ip" not in key}
    _save(folder, "unet.safetensors", own, recipe)
    _save(folder, "text.safetensors", text.state_dict(), recipe)
    _save(folder, ADAPTER_FILE, adapter.state_dict(), recipe)


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


def load_denoiser(folder: Path = SHIPPED) -> Denoiser:
    """Read UNet, class tokens and adapter joined as in training, in float32."""
    model = Denoiser()
    missing = model.unet.load_state_dict(load_unet(folder).state_dict(), strict=False)
    if missing.unexpected_keys:
        raise ValueError(f"{folder}: unexpected keys {missing.unexpected_keys[:3]}")
    model.text.load_state_dict(load_text(folder).state_dict())
    model.adapter.load_state_dict(load_adapter_state(folder))
    return model.eval().requires_grad_(False)


def load_adapter_state(folder: Path = SHIPPED) -> dict[str, torch.Tensor]:
    """Read the adapter's flat state dict, in float32."""
    return {key: value.float() for key, value in load_file(folder / ADAPTER_FILE).items()}


def _save(folder: Path, name: str, state: dict[str, torch.Tensor], recipe: Recipe) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    half = {
        key: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for key, value in state.items()
    }
    metadata = {
        "format": "pt",
        "trained_on": "Fashion-MNIST, the first 55 000 training items",
        "recipe": json.dumps(asdict(recipe)),
        "license": "Apache-2.0",
    }
    save_file(half, folder / name, metadata=metadata)


def _load(model: nn.Module, path: Path) -> Any:
    state = load_file(path)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval().requires_grad_(False)
