# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Writing the networks as the demo reads them, and reading them joined as in training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from attnpatch.demo import store
from attnpatch.demo.classifier import Classifier
from attnpatch.demo.items import Split
from attnpatch.demo.model import ClassTokens, ImageEncoder
from fashion_mnist.denoiser import Adapter, Denoiser
from fashion_mnist.recipe import Recipe


def save_classifier(folder: Path, model: Classifier, recipe: Recipe) -> None:
    """Write `classifier.safetensors`."""
    _save(folder, "classifier.safetensors", model.state_dict(), recipe)


def save_encoder(folder: Path, model: ImageEncoder, recipe: Recipe) -> None:
    """Write `encoder.safetensors`."""
    _save(folder, "encoder.safetensors", model.state_dict(), recipe)


def save_references(folder: Path, split: Split, count: int = store.REFERENCES) -> None:
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


def save_denoiser(
    folder: Path, unet: Any, text: ClassTokens, adapter: Adapter, recipe: Recipe
) -> None:
    """Write `unet.safetensors`, `text.safetensors` and `ip_adapter.safetensors`."""
    own = {key: value for key, value in unet.state_dict().items() if "_ip" not in key}
    _save(folder, "unet.safetensors", own, recipe)
    _save(folder, "text.safetensors", text.state_dict(), recipe)
    _save(folder, store.ADAPTER_FILE, adapter.state_dict(), recipe)


def load_denoiser(folder: Path = store.SHIPPED) -> Denoiser:
    """Read UNet, class tokens and adapter joined as in training, in float32."""
    model = Denoiser()
    missing = model.unet.load_state_dict(store.load_unet(folder).state_dict(), strict=False)
    if missing.unexpected_keys:
        raise ValueError(f"{folder}: unexpected keys {missing.unexpected_keys[:3]}")
    model.text.load_state_dict(store.load_text(folder).state_dict())
    model.adapter.load_state_dict(store.load_adapter_state(folder))
    return model.eval().requires_grad_(False)


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
