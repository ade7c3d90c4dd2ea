# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Reproduce the quality figures: `python -m fashion_mnist.evaluate`, with `PYTHONPATH=examples`.

The judge is the independent classifier. Three shares are printed: real test items that it names
right, class-conditional samples of which it names the class asked for, and samples made from an
image prompt alone (no class) of which it names the reference's class.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from attnpatch.demo import sample as sampling
from attnpatch.demo import store
from attnpatch.demo.classifier import Classifier, classify
from attnpatch.demo.items import Split, to_pixels
from attnpatch.demo.model import CLASSES, EMBED_DIM, NULL_CLASS, decode_latents
from fashion_mnist import weights
from fashion_mnist.data import load_split
from fashion_mnist.denoiser import Denoiser


@dataclass(frozen=True)
class Prompts:
    """What to sample from: one row per picture.

    Attributes
    ----------
    classes : torch.Tensor
        int64, (N,); `NULL_CLASS` for none.
    embeds : torch.Tensor or None
        Float, (N, 192); None leaves the image prompt off.
    """

    classes: torch.Tensor
    embeds: torch.Tensor | None = None


@torch.inference_mode()
def draw(
    model: Denoiser,
    prompts: Prompts,
    guidance: float,
    steps: int = sampling.STEPS,
    seed: int = 0,
    batch: int = 50,
    label: str = "samples",
) -> torch.Tensor:
    """Sample one picture per prompt, (N, 1, 32, 32) in [-1, 1]; picture i starts from seed + i."""
    pictures = []
    total = len(prompts.classes)
    with tqdm(total=total * steps, desc=label, unit="step", dynamic_ncols=True) as bar:
        for start in range(0, total, batch):
            classes = prompts.classes[start : start + batch]
            size = len(classes)
            both = torch.cat([torch.full_like(classes, NULL_CLASS), classes])
            embeds, weights = torch.zeros(2 * size, EMBED_DIM), torch.zeros(2 * size)
            if prompts.embeds is not None:
                embeds[size:] = prompts.embeds[start : start + batch]
                weights.fill_(1.0)

            def predict(
                latents: torch.Tensor,
                timestep: torch.Tensor,
                inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = (both, embeds, weights),
            ) -> torch.Tensor:
                return model(latents, timestep, *inputs)

            latents = sampling.sample(
                predict,
                sampling.make_noise(size, seed + start),
                guidance,
                steps,
                lambda step, steps, size=size: bar.update(size),
            )
            pictures.append(decode_latents(latents))
    return torch.cat(pictures)


def share_right(judge: Classifier, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of the pictures that the judge names right."""
    return (classify(judge, pixels).argmax(-1) == labels).float().mean().item()


def references(split: Split, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the first items of a split: pictures (count, 1, 32, 32) and labels."""
    return to_pixels(split.images[:count]), split.labels[:count]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m fashion_mnist.evaluate", description=__doc__)
    parser.add_argument("--weights", type=Path, default=store.SHIPPED)
    parser.add_argument("--data", type=Path, help="folder of the IDX files")
    parser.add_argument("--split", choices=("tuning", "test"), default="test")
    parser.add_argument("--count", type=int, default=1000, help="samples per kind of prompt")
    parser.add_argument("--steps", type=int, default=sampling.STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--class-guidance", type=float, default=sampling.CLASS_GUIDANCE)
    parser.add_argument("--image-guidance", type=float, default=sampling.IMAGE_GUIDANCE)
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's choice")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print the figures as one JSON object."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    split = load_split(options.split, options.data)
    judge, encoder = store.load_classifier(options.weights), store.load_encoder(options.weights)
    model = weights.load_denoiser(options.weights)
    pixels, labels = references(split, options.count)
    asked = torch.arange(options.count) % CLASSES
    with torch.inference_mode():
        embeds = encoder(pixels)
    by_class = draw(
        model, Prompts(asked), options.class_guidance, options.steps, options.seed, label="class"
    )
    by_image = draw(
        model,
        Prompts(torch.full_like(labels, NULL_CLASS), embeds),
        options.image_guidance,
        options.steps,
        options.seed,
        label="image",
    )
    figures = {
        "split": options.split,
        "samples": options.count,
        "steps": options.steps,
        "real_items_right": share_right(judge, to_pixels(split.images), split.labels),
        "class_samples_right": share_right(judge, by_class, asked),
        "image_samples_right": share_right(judge, by_image, labels),
    }
    print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
