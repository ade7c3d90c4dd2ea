# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A sampling step of usual workflows in the real ComfyUI: ours against the public packs.

UNets of SD1.5's and SDXL's structure with random weights, cond and uncond in one batch, in the
middle of the sampling. Theirs are the packs ComfyUI_IPAdapter_plus, ComfyUI_InstantID (its patch;
both sides without its ControlNet) and comfyui_slothful_attention, and core's own nodes for
guidance; where two of them do not go together, as their users chain them. The keys by which the two
image packs miss the middle block are set right, so that they do the whole work. Both sides are in
one process, and all steps take turns block by block. Where both should give the same picture it is
compared before anything is measured.

A figure is the median over the rounds: seconds of a plain step, and of ours, and theirs over ours,
of a step in the run and of the first one, which makes the patches of an adapter's tensors. Memory
is what that first step adds to the process at its peak, beside what a plain one adds.

ATTNPATCH_COMFYUI, ATTNPATCH_IPADAPTER_PLUS, ATTNPATCH_INSTANTID and ATTNPATCH_SLOTHFUL name the
checkouts.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lockstep import run
from measuring import Measuring, add_arguments, milliseconds, peak_of, ratio
from torch import Tensor
from wide_models import (
    CONTEXT,
    MULTIPLIERS,
    WIDTH,
    apply_node,
    comfyui_model,
    load_comfyui,
    load_slothful,
)

import attnpatch as ap

TESTS = Path(__file__).parent.parent / "tests_py"
CHECKOUTS = [f"ATTNPATCH_{name}" for name in ("COMFYUI", "IPADAPTER_PLUS", "INSTANTID", "SLOTHFUL")]
NAMES = {"sd1": "SD1.5", "sdxl": "SDXL"}
EMBED = 1024  # a square: IPAdapter_plus pools tiles of embeddings as if they were pictures
PERCENT = 0.5
SCALE = 5.0
SAME = 1e-3

Patching = Callable[["Bench", Any], Any]


@dataclass(frozen=True)
class Workflow:
    """One of them: how each side patches a ModelPatcher."""

    ours: Patching
    theirs: Patching
    same: bool = True
    """Whether both should give the same picture."""
    pixels: tuple[int, ...] = (1024,)
    """Its sizes, where none are asked for."""


class Bench:
    """A UNet, adapters for it, and how a step is made."""

    def __init__(self, family: str, width: int) -> None:
        self.family = family
        self.patcher = comfyui_model(family, width=width)
        self._maker_seed = 0
        channels = [size * width // WIDTH for size in self._full_channels()]
        self._channels = channels

    def _full_channels(self) -> list[int]:
        from fake_adapters import FAMILIES

        return list(FAMILIES[CONTEXT[self.family]][1])

    def _state(self, seed: int, projection: Callable[[Any], dict[str, Tensor]]) -> dict[str, Any]:
        from fake_adapters import Maker

        maker = Maker(seed=seed)
        sites = maker.sites(self._channels, CONTEXT[self.family])
        return {"image_proj": projection(maker), "ip_adapter": sites}

    @cached_property
    def picture_state(self) -> dict[str, Any]:
        """A base adapter: four tokens."""
        context = CONTEXT[self.family]
        return self._state(1, lambda maker: maker.image_projection(EMBED, context))

    @cached_property
    def face_state(self) -> dict[str, Any]:
        """InstantID's resampler for SDXL, a "plus" adapter for SD1.5: sixteen tokens."""
        context = CONTEXT[self.family]
        if self.family == "sdxl":
            return self._state(2, lambda m: m.resampler(512, output=context, dim=1280, heads=20))
        return self._state(2, lambda m: m.resampler(EMBED, output=context, dim=768, heads=12))

    @cached_property
    def features(self) -> list[tuple[Tensor, Tensor]]:
        """What an image encoder gives of two pictures, and of the negative one."""
        return [(noise(1, EMBED, seed=20 + i), torch.zeros(1, EMBED)) for i in range(2)]

    @cached_property
    def masks(self) -> list[Tensor]:
        """Two halves of a picture, with a soft border."""
        left = torch.linspace(6, -6, 512).sigmoid().expand(1, 512, 512).contiguous()
        return [left, 1 - left]

    def step(self, side: int) -> Callable[[Any], Tensor]:
        """Return what makes a step of a ModelPatcher, of a picture of side x side latents."""
        from narrow_models import prompt

        import comfy.sampler_helpers
        import comfy.samplers

        shape = 1, 4, side, side
        sampling = self.patcher.model.model_sampling
        sigma = torch.tensor([sampling.percent_to_sigma(PERCENT)])
        sigmas = torch.stack([sigma[0], sigma[0] * 0.9])
        x = noise(*shape, seed=5) * sigma

        def step(patcher: Any) -> Tensor:
            # A model of its own, whose weights all share: no lane sees who samples in another.
            model = copy.copy(self.patcher.model)
            patcher = patcher.clone()
            patcher.model = model
            model.current_patcher = patcher
            conds = {
                kind: comfy.sampler_helpers.convert_cond([prompt(patcher, seed)])
                for kind, seed in (("positive", 6), ("negative", 8))
            }
            conds = comfy.samplers.process_conds(model, x, conds, x.device, torch.zeros(shape))
            options = patcher.model_options | {
                "transformer_options": patcher.model_options["transformer_options"]
                | {"sample_sigmas": sigmas}
            }
            return comfy.samplers.sampling_function(
                model, x, sigma, conds["negative"], conds["positive"], SCALE, options, seed=3
            )

        return step


def noise(*shape: int, seed: int) -> Tensor:
    """Make normal random numbers of a generator of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def our_prompt(bench: Bench, picture: int, **options: Any) -> ap.ImagePrompt:
    """Make an image prompt of one of the two pictures."""
    adapter = ap.load_image_adapter(bench.picture_state)
    return ap.ImagePrompt(adapter, adapter.get_image_embeds(*bench.features[picture]), **options)


def their_prompt(bench: Bench, model: Any, picture: int, **options: Any) -> Any:
    """Apply IPAdapter_plus."""
    import reference_pack

    return reference_pack.apply(model, bench.picture_state, bench.features[picture], **options)


def our_masked(bench: Bench) -> list[Any]:
    """Two pictures, each in its half."""
    return [our_prompt(bench, i, weight=0.8, mask=bench.masks[i]) for i in range(2)]


def their_masked(bench: Bench, model: Any) -> Any:
    """The same by IPAdapter_plus, twice."""
    for i in range(2):
        model = their_prompt(bench, model, i, weight=0.8, attn_mask=bench.masks[i])
    return model


def our_face(bench: Bench) -> Any:
    """A person, by InstantID in SDXL, by a picture of the face in SD1.5."""
    adapter = ap.load_image_adapter(bench.face_state)
    if bench.family == "sdxl":
        return ap.Identity(adapter, noise(512, seed=30), 0.8)
    positive, negative = noise(1, 257, EMBED, seed=30), noise(1, 257, EMBED, seed=31)
    return ap.ImagePrompt(adapter, adapter.get_image_embeds(positive, negative), weight=0.8)


def their_face(bench: Bench, model: Any) -> Any:
    """The same by ComfyUI_InstantID or IPAdapter_plus."""
    import reference_instantid
    import reference_pack

    if bench.family == "sd1":
        features = noise(1, 257, EMBED, seed=30), noise(1, 257, EMBED, seed=31)
        return reference_pack.apply(model, bench.face_state, features, weight=0.8)
    face = {"bbox": [0, 0, 9, 9], "embedding": noise(512, seed=30).numpy()}
    analysis = SimpleNamespace(det_model=SimpleNamespace(), get=lambda picture: [face])
    with reference_instantid.middle_block():
        return reference_instantid.run(
            "InstantIDAttentionPatch",
            instantid=reference_instantid.make_model(bench.face_state),
            insightface=analysis,
            image=torch.zeros(1, 64, 64, 3),
            model=model,
            weight=0.8,
            start_at=0.0,
            end_at=1.0,
        )[0]


def our_face_and_style(bench: Bench) -> list[Any]:
    """A person, and the style of a picture."""
    return [our_face(bench), our_prompt(bench, 0, weight="style transfer")]


def their_face_and_style(bench: Bench, model: Any) -> Any:
    """The same by the packs."""
    return their_prompt(bench, their_face(bench, model), 0, weight_type="style transfer")


def core(module: str, node: str) -> Callable[..., Any]:
    """Return what applies one of core's nodes."""

    def apply(model: Any, *values: float) -> Any:
        kind = getattr(sys.modules.get(f"comfy_extras.{module}") or _load(module), node)
        return kind.execute(model, *values).result[0]

    return apply


def _load(module: str) -> Any:
    import importlib

    return importlib.import_module(f"comfy_extras.{module}")


core_sag = core("nodes_sag", "SelfAttentionGuidance")
core_pag = core("nodes_pag", "PerturbedAttentionGuidance")


def their_near_sighted(bench: Bench, model: Any) -> Any:
    """Near-sighted attention by comfyui_slothful_attention."""
    nodes = load_slothful(Path(os.environ["ATTNPATCH_SLOTHFUL"]))
    return apply_node(nodes["NearSightedAttention"], model, {})


def our_all(bench: Bench) -> list[Any]:
    """A person and a style, guidance, fewer tokens."""
    return [
        *our_face_and_style(bench),
        ap.NearSightedAttention(),
        ap.PerturbedAttentionGuidance(3.0),
    ]


def their_all(bench: Bench, model: Any) -> Any:
    """The same by the packs and core."""
    return core_pag(their_near_sighted(bench, their_face_and_style(bench, model)), 3.0)


def patched(make: Callable[[Bench], Any]) -> Patching:
    """Return what applies our patches."""
    return lambda bench, model: ap.patch_model(model, make(bench))


WORKFLOWS = {
    "two masked image prompts": Workflow(patched(our_masked), their_masked),
    "a face and a style": Workflow(patched(our_face_and_style), their_face_and_style),
    "image prompt, PAG": Workflow(
        patched(lambda b: [our_prompt(b, 0, weight=0.8), ap.PerturbedAttentionGuidance(3.0)]),
        lambda b, model: core_pag(their_prompt(b, model, 0, weight=0.8), 3.0),
    ),
    "SAG": Workflow(
        patched(lambda b: ap.SelfAttentionGuidance(0.5, blur_sigma=2.0)),
        lambda b, model: core_sag(model, 0.5, 2.0),
    ),
    "near-sighted": Workflow(
        patched(lambda b: ap.NearSightedAttention()),
        their_near_sighted,
        same=False,
        pixels=(1024, 1536),
    ),
    "all together": Workflow(patched(our_all), their_all, same=False),
}


def compare_pictures(name: str, ours: Tensor, theirs: Tensor, plain: Tensor) -> None:
    """Refuse to measure what does not do the same."""
    scale = float((theirs - plain).abs().max())
    difference = float((ours - theirs).abs().max()) / scale if scale else math.inf
    if not difference < SAME:
        raise SystemExit(f"{name}: ours and theirs differ by {difference:.1e} of the effect")


def made(patching: Patching, bench: Bench) -> Any:
    """Patch a model; the packs can not set weights in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        return patching(bench, bench.patcher)


def trim() -> None:
    """Give free memory back, so that the next peak is seen whole."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def memory(call: Callable[[], object]) -> float:
    """MiB that a call adds at its peak."""
    trim()
    with torch.inference_mode():
        return peak_of(call)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, rounds=3)
    parser.add_argument("--model", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument(
        "--pixels", type=int, nargs="+", help="default: 1024, for fewer tokens 1536 too"
    )
    parser.add_argument("--workflow", nargs="+", choices=list(WORKFLOWS), default=list(WORKFLOWS))
    parser.add_argument("--width", type=int, default=WIDTH, help="of the first level; full: 320")
    parser.add_argument(
        "--cpu-time", action="store_true", help="one thread and its CPU time, for a busy machine"
    )
    args = parser.parse_args()
    if args.dtype != "float32":
        parser.error(f"--dtype: expected float32, got {args.dtype}")
    missing = [name for name in CHECKOUTS if not Path(os.environ.get(name) or "-").is_dir()]
    if missing:
        parser.error(f"expected checkouts named by {', '.join(missing)}")
    if args.cpu_time:
        args.threads = 1
    return args


def main() -> None:
    """Print the table."""
    args = arguments()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    load_comfyui(Path(os.environ["ATTNPATCH_COMFYUI"]))
    sys.path.insert(0, str(TESTS / "adapters"))
    notes = f"first level {args.width} channels", *["CPU time"] * args.cpu_time
    with Measuring(args, *notes).running() as measuring:
        table = measuring.table(
            "workflows",
            ("model", "pixels", "workflow"),
            ("plain, s", "ours, s", "/theirs", "/theirs, first", "ours, MiB", "theirs, MiB"),
        )
        for family in args.model:
            bench = Bench(family, args.width)
            for name in args.workflow:
                workflow = WORKFLOWS[name]
                for pixels in args.pixels or workflow.pixels:
                    figures = figures_of(bench, name, workflow, pixels // 8, args.rounds, clock)
                    table.add((NAMES[family], pixels, name), figures)


def figures_of(
    bench: Bench,
    name: str,
    workflow: Workflow,
    side: int,
    rounds: int,
    clock: Callable[[], float],
) -> tuple[float, ...]:
    """Measure one workflow of one size."""
    import reference_pack

    step, plain = bench.step(side), bench.patcher
    with reference_pack.middle_block():
        ours, theirs = workflow.ours(bench, plain), workflow.theirs(bench, plain)
        calls = {
            "plain": lambda: step(plain),
            "ours": lambda: step(ours),
            "theirs": lambda: step(theirs),
            "ours first": lambda: step(made(workflow.ours, bench)),
            "theirs first": lambda: step(made(workflow.theirs, bench)),
        }
        usual = memory(calls["plain"])
        beside = [memory(calls[f"{who} first"]) - usual for who in ("ours", "theirs")]
        if workflow.same:
            with torch.inference_mode():
                compare_pictures(name, *(calls[who]() for who in ("ours", "theirs", "plain")))
        unets = [plain.model.diffusion_model]
        found = [run(calls, unets, clock) for _ in range(rounds)]
    times = {who: [results[who].seconds for results in found] for who in calls}
    return (
        statistics.median(times["plain"]),
        milliseconds(times["ours"]) / 1e3,
        ratio(times["theirs"], times["ours"]),
        ratio(times["theirs first"], times["ours first"]),
        *beside,
    )


if __name__ == "__main__":
    main()
