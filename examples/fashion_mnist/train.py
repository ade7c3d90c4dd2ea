# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Train the demo's networks: `./run train --output FOLDER`.

Three stages: the classifier that judges, the image encoder, and the diffusion UNet with its class
tokens and adapter. Every random number comes from the seed and the step, so a resumed run
continues exactly as if it had never stopped.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from attnpatch.demo import store
from attnpatch.demo.classifier import Classifier
from attnpatch.demo.items import Split, to_pixels
from attnpatch.demo.model import (
    EMBED_DIM,
    NULL_CLASS,
    SCHEDULER_CONFIG,
    ImageEncoder,
    encode_latents,
)
from fashion_mnist import weights
from fashion_mnist.data import load_split
from fashion_mnist.denoiser import Denoiser, attach_trainable
from fashion_mnist.muon import Muon
from fashion_mnist.recipe import Recipe

CHECKPOINT_EVERY = 500


def shift(pixels: torch.Tensor, reach: int, generator: torch.Generator) -> torch.Tensor:
    """Move a batch of pictures by up to `reach` pixels, each by its own offset."""
    batch, _, height, width = pixels.shape
    offsets = torch.randint(0, 2 * reach + 1, (2, batch), generator=generator).to(pixels.device)
    padded = F.pad(pixels, (reach,) * 4, value=-1.0)
    rows = offsets[0][:, None] + torch.arange(height, device=pixels.device)
    columns = offsets[1][:, None] + torch.arange(width, device=pixels.device)
    index = torch.arange(batch, device=pixels.device)[:, None, None]
    return padded[index, 0, rows[:, :, None], columns[:, None, :]][:, None]


def small_batches(
    split: Split, epochs: int, recipe: Recipe, label: str
) -> Iterator[tuple[float, torch.Generator, torch.Tensor, torch.Tensor]]:
    """Yield (progress, generator, pictures, labels) over shuffled epochs, with a progress bar."""
    generator = torch.Generator().manual_seed(recipe.seed)
    per_epoch = len(split) // recipe.small_batch
    total = per_epoch * epochs
    with tqdm(total=total, desc=label, unit="step", dynamic_ncols=True) as bar:
        for epoch in range(epochs):
            order = torch.randperm(len(split), generator=generator)
            for i in range(per_epoch):
                chosen = order[i * recipe.small_batch : (i + 1) * recipe.small_batch]
                pixels = to_pixels(split.images[chosen])
                progress = (epoch * per_epoch + i) / total
                yield progress, generator, pixels, split.labels[chosen]
                bar.update()


def fit_small(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float
) -> None:
    """Take one optimizer step at a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def train_classifier(split: Split, recipe: Recipe, device: torch.device) -> Classifier:
    """Train the judge on labels, with mirrored and shifted pictures."""
    torch.manual_seed(recipe.seed + 1)
    model = Classifier().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    for progress, generator, pixels, labels in small_batches(
        split, recipe.classifier_epochs, recipe, "classifier"
    ):
        mirrored = torch.rand(len(pixels), generator=generator) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        pixels = shift(pixels, 1, generator).to(device)
        loss = F.cross_entropy(model(pixels), labels.to(device))
        fit_small(model, optimizer, loss, recipe.small_learning_rate * (1.0 - progress))
    return model.eval()


class Decoder(nn.Module):
    """Embeddings back to pictures: the reconstruction half of the encoder's training."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(EMBED_DIM, 10)
        self.net = nn.Sequential(
            nn.Linear(EMBED_DIM, 64 * 4 * 4),
            nn.Unflatten(1, (64, 4, 4)),
            nn.GELU(),
            nn.ConvTranspose2d(64, 48, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(48, 24, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(24, 1, 4, stride=2, padding=1),
        )

    def forward(self, embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class logits (B, 10) and pictures (B, 1, 32, 32)."""
        return self.classes(embeds), self.net(embeds)


def train_encoder(split: Split, recipe: Recipe, device: torch.device) -> ImageEncoder:
    """Train the encoder to classify and to reconstruct; the decoder is thrown away."""
    torch.manual_seed(recipe.seed + 2)
    encoder, decoder = ImageEncoder().to(device), Decoder().to(device)
    both = nn.ModuleList([encoder, decoder])
    optimizer = torch.optim.AdamW(both.parameters(), weight_decay=0.02)
    for progress, generator, pixels, labels in small_batches(
        split, recipe.encoder_epochs, recipe, "encoder"
    ):
        pixels = shift(pixels, 1, generator).to(device)
        embeds = encoder(pixels)
        noise = torch.randn(embeds.shape, generator=generator).to(device)
        logits, pictures = decoder(embeds + recipe.embed_noise * noise)
        loss = F.cross_entropy(logits, labels.to(device)) + 5.0 * F.mse_loss(pictures, pixels)
        fit_small(both, optimizer, loss, recipe.small_learning_rate * (1.0 - progress))
    return encoder.eval()


@dataclass(frozen=True)
class Batch:
    """The inputs of one step, and its target."""

    latents: torch.Tensor
    timesteps: torch.Tensor
    classes: torch.Tensor
    embeds: torch.Tensor
    image_weights: torch.Tensor
    target: torch.Tensor


class BatchMaker:
    """Makes the batch of any step from the seed and the step's number alone."""

    def __init__(
        self, split: Split, embeds: torch.Tensor, recipe: Recipe, device: torch.device
    ) -> None:
        from diffusers import DDIMScheduler

        self.split, self.embeds, self.recipe, self.device = split, embeds, recipe, device
        self.alphas = DDIMScheduler(**SCHEDULER_CONFIG).alphas_cumprod

    def __call__(self, step: int) -> Batch:
        """Make the batch of step `step`."""
        recipe, size = self.recipe, self.recipe.batch
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        chosen = torch.randint(0, len(self.split), (size,), generator=generator)
        strata = torch.randperm(size, generator=generator) + torch.rand(size, generator=generator)
        timesteps = (strata / size * len(self.alphas)).long().clamp_(0, len(self.alphas) - 1)
        latents = encode_latents(to_pixels(self.split.images[chosen]))
        noise = torch.randn(latents.shape, generator=generator)
        alpha = self.alphas[timesteps][:, None, None, None]
        signal, spread = alpha.sqrt(), (1.0 - alpha).sqrt()

        image, drop = torch.rand((2, size), generator=generator)
        off = image < recipe.image_off
        zero = (image >= recipe.image_off) & (image < recipe.image_off + recipe.image_zero)
        dropped = zero | (drop < torch.where(off, recipe.class_drop, recipe.class_drop_image))
        classes = self.split.labels[chosen].masked_fill(dropped, NULL_CLASS)
        embeds = self.embeds[chosen].float()
        embeds = embeds + recipe.embed_noise * torch.randn(embeds.shape, generator=generator)
        embeds = embeds.masked_fill(zero[:, None], 0.0)
        parts = (
            signal * latents + spread * noise,
            timesteps,
            classes,
            embeds,
            1.0 - off.float(),
            signal * noise - spread * latents,
        )
        return Batch(*(part.to(self.device) for part in parts))


@torch.inference_mode()
def embed_all(encoder: ImageEncoder, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Encode uint8 items (N, 28, 28) to float32 embeddings (N, 192) on the CPU."""
    parts = [encoder(to_pixels(part).to(device)).cpu() for part in images.split(1000)]
    return torch.cat(parts)


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices and convolutions; AdamW for ends, norms, biases, embeddings."""
    inner, rest = [], []
    for name, parameter in model.named_parameters():
        end = "embedding." in name or "conv_in" in name or "conv_out" in name
        (inner if parameter.ndim >= 2 and not end else rest).append(parameter)
    return [
        Muon(inner, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(rest, weight_decay=recipe.weight_decay, betas=(0.9, 0.99), fused=True),
    ]


def train_denoiser(
    split: Split,
    encoder: ImageEncoder,
    recipe: Recipe,
    device: torch.device,
    checkpoint: Path,
    resume: bool = False,
) -> Denoiser:
    """Train the diffusion model; returns the moving average of its weights."""
    torch.manual_seed(recipe.seed + 3)
    model = Denoiser().to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(model).requires_grad_(False)
    attach_trainable(average.unet, average.adapter)
    optimizers = make_optimizers(model, recipe)
    first = 0
    if resume and checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    batches = BatchMaker(split, embed_all(encoder, split.images, device), recipe, device)
    pairs = [list(model.parameters()), list(average.parameters())]
    losses: list[float] = []
    with tqdm(
        total=recipe.steps, initial=first, desc="diffusion", unit="step", dynamic_ncols=True
    ) as bar:
        for step in range(first, recipe.steps):
            batch = batches(step)
            predicted = model(
                batch.latents, batch.timesteps, batch.classes, batch.embeds, batch.image_weights
            )
            loss = F.mse_loss(predicted, batch.target)
            model.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(pairs[0], 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate(step)
                optimizer.step()
            with torch.no_grad():
                rate = 1.0 - min(recipe.ema, (1 + step) / (10 + step))
                torch._foreach_lerp_(pairs[1], pairs[0], rate)
            losses.append(loss.item())
            bar.update()
            if (step + 1) % 100 == 0:
                mean = sum(losses[-100:]) / len(losses[-100:])
                bar.set_postfix(loss=f"{mean:.4f}")
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == recipe.steps:
                save_checkpoint(checkpoint, model, average, optimizers, step + 1)
    return average


def save_checkpoint(
    path: Path,
    model: Denoiser,
    average: Denoiser,
    optimizers: list[torch.optim.Optimizer],
    step: int,
) -> None:
    """Write what `--resume` needs, replacing the old file in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
    }
    temporary = path.with_suffix(".new")
    torch.save(state, temporary)
    temporary.replace(path)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="./run train", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo-weights"))
    parser.add_argument("--data", type=Path, help="folder of the IDX files")
    parser.add_argument("--stage", choices=("all", "classifier", "encoder", "diffusion"))
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--minutes", type=float, help="choose the steps so that they fit")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's choice")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    return parser.parse_args(arguments)


def steps_within(minutes: float, split: Split, device: torch.device) -> int:
    """Measure a few steps, and return how many fit into the given time."""
    model = Denoiser().to(device, memory_format=torch.channels_last)
    batches = BatchMaker(split, torch.zeros(len(split), EMBED_DIM), Recipe(), device)
    for step in range(13):
        if step == 3:
            start = time.perf_counter()
        batch = batches(step)
        predicted = model(
            batch.latents, batch.timesteps, batch.classes, batch.embeds, batch.image_weights
        )
        F.mse_loss(predicted, batch.target).backward()
        batch.latents.sum().item()
    # The optimizers and the moving average take a quarter as long as the passes.
    return max(1, int(minutes * 60 / (1.25 * (time.perf_counter() - start) / 10)))


def main(arguments: list[str] | None = None) -> int:
    """Train the stages asked for, and write their weights."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    split = load_split("train", options.data)
    steps = options.steps
    if options.minutes is not None:
        steps = steps_within(options.minutes, split, device)
    recipe = replace(Recipe(), seed=options.seed, steps=steps)
    stage = options.stage or "all"
    if stage == "all":
        weights.save_references(options.output, load_split("test", options.data))
    if stage in ("all", "classifier"):
        weights.save_classifier(options.output, train_classifier(split, recipe, device), recipe)
    if stage in ("all", "encoder"):
        weights.save_encoder(options.output, train_encoder(split, recipe, device), recipe)
    if stage in ("all", "diffusion"):
        encoder = store.load_encoder(options.output).to(device)
        checkpoint = options.output / "checkpoint.pt"
        model = train_denoiser(split, encoder, recipe, device, checkpoint, options.resume)
        weights.save_denoiser(options.output, model.unet, model.text, model.adapter, recipe)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
