# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Speed of a sweep's batches against one call of the pipeline for each cell.

8 weights × 4 windows of an image prompt, one seed, all in one process and by turns:

- fashion: the model in the package, 10 steps;
- narrow: a UNet of SDXL's structure, a tenth as wide, 8 steps, latents as results.

Windows: all of sampling, its first half, its second half, its middle. A ratio is the time of the
calls one by one over that of the sweep: above 1 the sweep is faster. It is CPU time, of one thread,
so that other work on the machine counts little. Each is the median over the rounds. Pictures are
compared as well. What differs between both is printed: how many rows the UNet computed of those
that it would have computed one by one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

import attnpatch as ap
from attnpatch.demo.narrow_sdxl import CONTEXT, SIDE, make_unet
from attnpatch.hosts.diffusers import attach, read_layer_table
from attnpatch.studies.batches import group_cells
from attnpatch.studies.cells import Cell
from attnpatch.studies.models import FASHION
from attnpatch.studies.models.fashion import FashionModel
from attnpatch.studies.runner import Runner

WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
WINDOWS = ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.3, 0.7))
TOKENS = 4
RANGE = 400.0  # what latents of the narrow model reach in all: -145 to 178


class NarrowModel:
    """A pipeline of SDXL's structure without text encoders and VAE: a picture is a latent."""

    cond_or_uncond = None
    device = "cpu"

    def __init__(self) -> None:
        from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

        parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker"))
        self.pipeline: Any = StableDiffusionPipeline(
            unet=make_unet(),
            scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
            feature_extractor=None,
            requires_safety_checker=False,
            **parts,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        texts = torch.randn(2, 1, 77, CONTEXT, generator=torch.Generator().manual_seed(3))
        self._cond, self._uncond = texts

    def prompt(self) -> ap.ImagePrompt:
        """Make an image prompt of random keys and values."""
        generator = torch.Generator().manual_seed(4)

        def rows() -> list[tuple[torch.Tensor, torch.Tensor]]:
            sizes = [layer.channels for layer in read_layer_table(self.pipeline.unet)]
            return [
                tuple(torch.randn(1, TOKENS, size, generator=generator) for _ in "kv")
                for size in sizes
            ]

        return ap.ImagePrompt.from_keys_values(rows(), rows())

    def generate(self, cells: Sequence[Cell], on_step: Callable[[], None]) -> Any:
        """Make latents, brought to 0 to 1."""
        latents = self.pipeline(
            prompt_embeds=self._cond.expand(len(cells), -1, -1),
            negative_prompt_embeds=self._uncond.expand(len(cells), -1, -1),
            generator=[torch.Generator().manual_seed(cell.argument("seed")) for cell in cells],
            num_inference_steps=self.steps(cells[0]),
            height=SIDE * self.pipeline.vae_scale_factor,
            width=SIDE * self.pipeline.vae_scale_factor,
            output_type="latent",
        ).images
        return latents.permute(0, 2, 3, 1).numpy() / RANGE + 0.5

    def steps(self, cell: Cell) -> int:
        """Return how many steps a cell has."""
        return cell.argument("steps")


def make_fashion() -> tuple[Any, ap.Study]:
    """Make the model in the package, and its study."""
    style = {"kind": "ImagePrompt", "adapter": FASHION, "picture": f"{FASHION}:13"}
    return FashionModel(), _study(style, 10)


def make_narrow() -> tuple[Any, ap.Study]:
    """Make the narrow model, and its study."""
    model = NarrowModel()
    return model, _study(model.prompt(), 8)


def _study(style: Any, steps: int) -> ap.Study:
    axes = {"style.weight": WEIGHTS, "style.window": WINDOWS}
    return ap.Study("a model", {"style": style}, axes, {"steps": steps})


def one_by_one(runner: Runner, cells: Sequence[Cell]) -> dict[str, Any]:
    """Call the pipeline once for each cell, as users do."""
    model, found = runner.model, {}
    for cell in cells:
        patches = runner.maker.patches(cell)
        with attach(model.pipeline, patches, cond_or_uncond=model.cond_or_uncond):
            found[cell.id] = model.generate([cell], lambda: None)[0]
    return found


def compare(name: str, make: Callable[[], tuple[Any, ap.Study]], rounds: int) -> None:
    """Print a row of the table."""
    model, study = make()
    runner = Runner(model, rows=64)
    cells = study.cells()
    runner.make(cells[:1])  # what is done once
    ratios, largest = [], 0.0
    counts: Mapping[str, int] = {}
    for _ in range(rounds):
        began = time.process_time()
        swept: dict[str, Any] = {}
        for group in group_cells(cells):
            for made in runner.run(group):
                swept |= {c.id: p for c, p in zip(made.cells, made.pictures, strict=True)}
                counts = {"rows": made.shared.rows, "computed": made.shared.computed}
        between = time.process_time()
        alone = one_by_one(runner, cells)
        ended = time.process_time()
        ratios.append((ended - between) / (between - began))
        largest = max(largest, *(float(np.abs(swept[c] - alone[c]).max()) for c in alone))
        print(f"  {between - began:.2f} s, one by one {ended - between:.2f} s", flush=True)
    print(
        f"| {name} | {len(cells)} | {counts['computed']} of {counts['rows']} | "
        f"{statistics.median(ratios):.2f} | {largest:.1e} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["fashion", "narrow"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | cells | rows computed | faster by | largest difference |")
    print("| --- | --- | --- | --- | --- |")
    for name in arguments.models:
        compare(name, {"fashion": make_fashion, "narrow": make_narrow}[name], arguments.rounds)


if __name__ == "__main__":
    main()
