# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""An identity at work: in a model of SDXL's structure, or in the user's own."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from attnpatch import Identity, patch_model
from attnpatch.demo.narrow_sdxl import SIDE, make_adapter, make_inputs, make_unet
from attnpatch.demo.own_model import OwnOptions, load_adapter, load_pipeline
from attnpatch.demo.runner import StepSchedule
from attnpatch.demo.sheet import Section, Tile
from attnpatch.faces import Face

__all__ = ["identity_section"]

_ROUNDS = 9


def identity_section(face: Face, arguments: argparse.Namespace) -> Section:
    """Show what an identity changes, with the time per step beside plain."""
    return _own(face, arguments) if arguments.model else _narrow(face)


def _narrow(face: Face) -> Section:
    unet, inputs = make_unet(), make_inputs()
    adapter = make_adapter(unet)
    mask = torch.zeros(SIDE, SIDE)
    mask[:, : SIDE // 2] = 1
    models = {
        "plain": unet,
        "identity": patch_model(unet, Identity(adapter, face), cond_or_uncond=(1, 0)),
        "masked": patch_model(unet, Identity(adapter, face, mask=mask), cond_or_uncond=(1, 0)),
    }
    outputs, times = _run_in_turn(models, inputs)
    notes = {name: f"{1e3 * seconds:.0f} ms a step" for name, seconds in times.items()}
    changes = {
        name: (outputs[name] - outputs["plain"]).square().mean(0).sqrt()
        for name in ("identity", "masked")
    }
    most = max(change.quantile(0.99) for change in changes.values())
    tiles = (
        Tile(_latent(outputs["plain"]), "plain", notes["plain"]),
        Tile(_latent(outputs["identity"]), "with the identity", notes["identity"]),
        Tile(_map(changes["identity"] / most), "where it changed", "bright: much"),
        Tile(_map(changes["masked"] / most), "masked to the left half", notes["masked"]),
    )
    ratio = times["identity"] / times["plain"]
    text = (
        f"All of SDXL's 70 layers, a tenth as wide, random weights; {ratio:.2f} times plain's time."
    )
    return Section("An identity in a model of SDXL's structure", text, (tiles,))


def _run_in_turn(
    models: dict[str, Any], inputs: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Give what each model makes of cond (4, h, w), and the median seconds of its steps."""
    outputs: dict[str, Tensor] = {}
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for number in range(1 + _ROUNDS):
            for name, model in models.items():
                begin = time.perf_counter()
                outputs[name] = model(**inputs).sample[1]
                if number:  # the first has warm-up in it
                    times[name].append(time.perf_counter() - begin)
    return outputs, {name: statistics.median(seconds) for name, seconds in times.items()}


def _latent(latent: Tensor) -> Image.Image:
    """Show three of a latent's channels (4, h, w) as colours."""
    values = (latent[:3].float().movedim(0, -1) * 90 + 128).clamp(0, 255)
    return Image.fromarray(values.byte().numpy()).resize((384, 384), Image.Resampling.NEAREST)


def _map(values: Tensor) -> Image.Image:
    """Show values (h, w) of 0 to 1 as brightness."""
    grey = Image.fromarray((255 * values.clamp(0, 1)).byte().numpy())
    return grey.resize((384, 384), Image.Resampling.BICUBIC)


def _own(face: Face, arguments: argparse.Namespace) -> Section:
    device = arguments.device
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.float16
    options = OwnOptions(
        arguments.model, arguments.adapter, (), prompt=arguments.prompt, device=device, dtype=dtype
    )
    adapter = load_adapter(options, "instantid")
    pipeline = load_pipeline(options, adapter.family)
    pipeline.set_progress_bar_config(disable=True)
    patched = patch_model(pipeline, Identity(adapter, face, 0.8, noise=0.35))
    tiles = []
    for caption, model in (("plain", pipeline), ("with the identity", patched)):
        schedule = StepSchedule()
        picture = model(
            prompt=options.prompt,
            num_inference_steps=arguments.steps,
            guidance_scale=options.guidance,
            generator=torch.Generator().manual_seed(options.seed),
            callback_on_step_end=lambda p, s, t, values, schedule=schedule: schedule() or values,
        ).images[0]
        tiles.append(Tile(picture, caption, f"{1e3 * schedule.seconds_per_step:.0f} ms a step"))
    return Section("An identity", f"“{options.prompt}”, {arguments.steps} steps", (tuple(tiles),))
