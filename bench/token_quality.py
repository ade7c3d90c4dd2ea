# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""How far self-attention to fewer tokens is from exact attention: writes docs/token-reduction.md.

Each patch, over its parameters, in the same layers on the same inputs as exact attention:

- the demo's model on a sheet of its test items with noise at several timesteps: the output of each
  self-attention, and what the whole model predicts when all of them are reduced;
- layers with random projections on random fields, of independent tokens and of smooth ones.

An error is the root mean square of the difference over that of the exact output. Nothing is timed.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import attnpatch as ap
from attnpatch.demo import store
from attnpatch.demo.items import to_pixels
from attnpatch.demo.model import NULL_CLASS, SCHEDULER_CONFIG, encode_latents
from attnpatch.engine import Call, Layer, LayerTable, Patch, PatchStack, Site, make_layer_table
from attnpatch.engine.heads import join_heads, split_heads
from attnpatch.hosts.diffusers import read_layer_table

TARGET = Path(__file__).parents[1] / "docs" / "token-reduction.md"
SHEET = 4  # rows and columns of test items
TIMESTEPS = (900, 600, 300, 100)
TIMES = ", ".join(map(str, TIMESTEPS))
FIELD = 64  # rows and columns of tokens
WIDTH, HEADS = 160, 4  # of the layers on random fields
SHARPNESS = 2.0  # standard deviation of their logits

Project = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A patch, and what a line of the table calls its parameters."""

    patch: Patch
    text: str


def cases() -> Iterator[Case]:
    """All lines of the table; strengths are the same at all layers and times."""
    still = {"time_decay": 0, "in_depth_decay": 0, "out_depth_decay": 0}

    def both(**sides: Any) -> dict[str, Any]:
        return {f"{side}_{name}": value for side in ("in", "out") for name, value in sides.items()}

    for slothful in (2, 4, 6, 9, 16):
        yield Case(ap.SlothfulAttention(**still, **both(slothful=slothful)), f"slothful {slothful}")
    for blend in (0.5, 1.0):
        for name, blends in (
            ("k_blend", {"k_blend": blend}),
            ("v_blend", {"v_blend": blend}),
            ("k_blend, v_blend", {"k_blend": blend, "v_blend": blend}),
        ):
            patch = ap.SlothfulAttention(**still, **both(slothful=4, **blends))
            yield Case(patch, f"slothful 4, {name} {blend:g}")
    for mode in ("1D_AVG", "1D_MAX", "2D_MAX"):
        options = both(slothful=4, k_blend=0.5, v_blend=0.5, mode=mode)
        yield Case(ap.SlothfulAttention(**still, **options), f"slothful 4, blends 0.5, {mode}")
    for size in (16, 24, 32):
        for ratio in (0.0, 0.2, 0.5, 1.0):
            patch = ap.NearSightedTile(tile_size=size, global_ratio=ratio, tiling_max_depth=3)
            yield Case(patch, f"tile_size {size}, global_ratio {ratio:g}")
    for slothful in (2, 4, 6, 9):
        for ratio in (0.2, 0.8):
            patch = ap.NearSightedAttention(
                **still,
                **both(slothful=slothful),
                tiling_max_depth=3,
                base_tile_size=16,
                peak_tile_size=16,
                base_global_ratio=ratio,
                peak_global_ratio=ratio,
            )
            yield Case(patch, f"slothful {slothful}, tile sizes 16, global ratios {ratio:g}")
    for ratio in (0.25, 0.5, 0.75):
        yield Case(ap.TokenMerging(ratio=ratio, max_depth=4), f"ratio {ratio:g}")
    for size in (64, 128, 256):
        yield Case(ap.HyperTile(tile_size=size, max_depth=10), f"tile_size {size}")


@dataclass
class Input:
    """What one self-attention layer saw, and what it made of it."""

    layer: Layer
    call: Call
    x: Tensor  # (1, tokens, channels)
    projections: tuple[Project, Project, Project]
    heads: int
    kind: str  # the column of the table
    exact: Tensor | None = None  # (1, tokens, channels), before the projection of the output


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attend exactly from (B, N, C) to (B, M, C)."""
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def compare(patch: Patch, table: LayerTable, inputs: Sequence[Input]) -> dict[str, list[Any]]:
    """For each column the errors, and under "pairs" the parts of all pairs that are left."""
    run = PatchStack([patch]).bind(table)
    found: dict[str, list[Any]] = defaultdict(list)
    for one in inputs:
        to_q, to_k, to_v = one.projections
        if one.exact is None:
            one.exact = attend(to_q(one.x), to_k(one.x), to_v(one.x), one.heads)
        site = Site.over_image(one.layer, one.call)
        acting = run.at(site)
        if acting is None:
            found[one.kind].append(None)
            continue
        pairs = 0

        def inner(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            nonlocal pairs
            pairs += q.shape[0] * q.shape[2] * k.shape[2]
            return F.scaled_dot_product_attention(q, k, v)

        k_input, v_input = acting.reduce(one.x, one.x)
        q, k, v = to_q(one.x), to_k(k_input), to_v(v_input)
        # Not plain: what it attends to is counted, tile by tile.
        apart = (split_heads(t, one.heads) for t in (q, k, v))
        out = join_heads(acting.attend(*apart, inner, is_softmax=False))
        found[one.kind].append(relative(out, one.exact))
        found["pairs"].append(pairs / one.x.shape[1] ** 2)
    return found


def relative(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference over that of `exact`."""
    return float((found - exact).norm() / exact.norm())


class DemoModel:
    """The demo's model, and what it sees in a sheet of test items with noise."""

    def __init__(self) -> None:
        from diffusers import DDIMScheduler

        self.unet = store.load_unet()
        self.table = read_layer_table(self.unet)
        self.text = store.load_text()(torch.tensor([NULL_CLASS]))
        items = to_pixels(store.load_references().images[: SHEET**2])
        rows = [torch.cat(list(items[i : i + SHEET]), dim=2) for i in range(0, len(items), SHEET)]
        self.latents = encode_latents(torch.cat(rows, dim=1)[None])
        self.scheduler = DDIMScheduler(**SCHEDULER_CONFIG)
        self.noise = torch.randn(self.latents.shape, generator=torch.Generator().manual_seed(0))
        self.inputs: list[Input] = []
        self.exact = [self.predict(timestep, collect=True) for timestep in TIMESTEPS]

    def predict(self, timestep: int, *, collect: bool = False) -> Tensor:
        """Give what the model predicts; on the way `inputs` are collected."""
        step = torch.tensor(timestep)
        noisy = self.scheduler.add_noise(self.latents, self.noise, step[None])
        call = Call(latent=tuple(noisy.shape[2:]), progress=1 - timestep / 999)
        hooks = []
        for layer in self.table if collect else ():
            module = self.unet.get_submodule(layer.name).attn1

            def note(module: Any, args: Any, kwargs: Any, layer: Layer = layer) -> None:
                x = args[0] if args else kwargs["hidden_states"]
                height, width = Site.over_image(layer, call).grid
                kind = f"{height} × {width}"
                projections = (module.to_q, module.to_k, module.to_v)
                self.inputs.append(Input(layer, call, x, projections, module.heads, kind))

            hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
        out = self.unet(noisy, step, self.text).sample
        for hook in hooks:
            hook.remove()
        return out

    def errors(self, patch: Patch) -> list[float]:
        """Errors of the prediction with all self-attention reduced."""
        with ap.attach(self.unet, patch, cond_or_uncond=(0,)):
            pairs = zip(TIMESTEPS, self.exact, strict=True)
            return [relative(self.predict(timestep), exact) for timestep, exact in pairs]


def random_fields() -> tuple[LayerTable, list[Input]]:
    """Make a layer with random projections for each kind of field."""
    table = make_layer_table(input=[(WIDTH, [1])], middle=None, output=[(WIDTH, [0])])
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    projections = []
    for scale in (SHARPNESS, 1.0, 1.0):
        weight = scale * noise(WIDTH, WIDTH) / math.sqrt(WIDTH)
        projections.append(lambda x, weight=weight: x @ weight.T)
    white = noise(1, WIDTH, FIELD, FIELD)
    taps = torch.exp(-0.5 * (torch.arange(-12, 13) / 4.0) ** 2)
    kernel = (taps[:, None] * taps).expand(WIDTH, 1, -1, -1)
    smooth = F.conv2d(F.pad(white, [12] * 4, mode="circular"), kernel, groups=WIDTH)
    call = Call(latent=(FIELD, FIELD), progress=0.5)
    inputs = []
    for kind, field in (("independent", white), ("smooth", smooth / smooth.std())):
        x = field.flatten(2).transpose(1, 2)
        inputs.append(Input(table[0], call, x, tuple(projections), HEADS, kind))
    return table, inputs


HEAD = f"""\
# How far fewer tokens are from exact attention

Written by `./run bench quality`, in a minute or two on two cores. Each line is a patch, as strong
at all layers and times: `time_decay` and the depth decays are 0, `tiling_max_depth` and `max_depth`
the largest. What a line does not name is at its default.

- **pairs**: pairs of a query and a key that are left, of all; mean over the layers that change.
- **attention**: errors of self-attention's own output by token grid, in the demo's model on a sheet
  of {SHEET} × {SHEET} of its test items with noise at the timesteps {TIMES}, on the inputs that
  exact attention has there.
- **prediction**: error of what that model predicts with all of these layers reduced.
- **independent**, **smooth**: errors of one layer of random projections (logits with a standard
  deviation of {SHARPNESS:g}) on random fields of {FIELD} × {FIELD} tokens: each on its own, or
  smooth over 4 tokens.

An error is the root mean square of the difference over that of the exact output; "–": left alone.
On independent tokens exact attention is nearly a mean: its output is small, and errors are large.
The model was trained on pictures with a sixteenth of the sheet's tokens.

Every n-th token as it is (blends of 0) stands well for alike neighbours. Pooling helps where
neighbours differ, and where the grid is coarse; maxima do not here. Tiles cost what lies outside;
global tokens bring a part of it back.
"""


def cell(values: Sequence[float | None]) -> str:
    """Format the mean of errors."""
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.3f}" if known else "–"


@torch.inference_mode()
def table(progress: bool = True) -> str:
    """Measure all, and write it as Markdown."""
    model = DemoModel()
    field_table, fields = random_fields()
    grids = list(dict.fromkeys(one.kind for one in model.inputs))
    kinds = [one.kind for one in fields]
    columns = ["pairs", *(f"attention {grid}" for grid in grids), "prediction", *kinds]
    lines = []
    latest = None
    for case in tqdm(list(cases()), desc="patches", leave=False, disable=not progress):
        name = type(case.patch).__name__
        if name != latest:
            latest = name
            lines += [f"\n## {name}\n", f"| | {' | '.join(columns)} |"]
            lines.append("| --- " * (len(columns) + 1) + "|")
        found = compare(case.patch, model.table, model.inputs)
        random = compare(case.patch, field_table, fields)
        pairs = found["pairs"] or random["pairs"]
        share = f"{sum(pairs) / len(pairs):.0%}" if pairs else "–"
        values = [cell(found[grid]) for grid in grids]
        acts = any(value != "–" for value in values)
        values.append(cell(model.errors(case.patch)) if acts else "–")
        values += [cell(random[kind]) for kind in kinds]
        lines.append(f"| {case.text} | {share} | {' | '.join(values)} |")
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=TARGET)
    args = parser.parse_args()
    args.output.write_text(table(), encoding="utf-8")
    print(args.output)


if __name__ == "__main__":
    main()
