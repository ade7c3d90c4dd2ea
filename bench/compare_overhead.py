# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a patched attention layer costs beside its arithmetic, in microseconds of CPU time.

The layers of a small UNet of SD1.5's or SDXL's structure, called as ComfyUI calls them, one UNet
call after the other, in one thread. From each time is taken that of the same arithmetic called
directly: our operator `branch_attention` on tensors that are already in shape, or the host's
attention; a patched layer calls a quicker one, so that it may cost less than nothing. What remains
is Python and C++ between the host's call and the arithmetic. The tensors are small, so that nothing
hides it.

With ATTNPATCH_COMFYUI and ATTNPATCH_IPADAPTER_PLUS naming checkouts, the layers are those of the
real ComfyUI, and the public pack's image prompt stands beside ours. Its projections of the image
tokens, which it repeats in every call, count as what it spends beside its attention.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from measuring import Measuring, add_arguments
from torch import Tensor

import attnpatch as ap
from attnpatch.hosts.comfyui.unet.other_packs import OTHERS
from attnpatch.ops.branch_attention import branch_attention_flat
from attnpatch.patches import ImagePrompt

TESTS = Path(__file__).parent.parent / "tests_py"
sys.path[:0] = [str(TESTS / "hosts"), str(TESTS / "comfyui")]
NAMES = {"sd1": "SD1.5", "sdxl": "SDXL"}
TOKENS = 4
REAL = "ATTNPATCH_COMFYUI" in os.environ
PUBLIC = "ATTNPATCH_IPADAPTER_PLUS" in os.environ


class Taken(NamedTuple):
    """One call of a slot, as the host made it."""

    key: tuple[Any, ...]
    q: Tensor
    k: Tensor
    v: Tensor
    options: dict[str, Any]


class Host(NamedTuple):
    """A model and how to run one step of it."""

    model: Any
    run: Callable[[Any], None]
    channels: list[int]


def protocol_host(family: str) -> Host:
    """Make the small host of the tests."""
    import protocol_sampling as host
    from protocol_unet import SD1, SDXL

    structure = {"sd1": SD1, "sdxl": SDXL}[family]
    model, (x, conds) = host.make_comfy(structure, 16), host.make_conds(structure)
    channels = [16 * multiplier for _, multiplier, _ in structure.sites()]
    return Host(model, lambda m: host.sample(m, x, conds, steps=1), channels)


def real_host(family: str) -> Host:
    """Make a small model in the real ComfyUI."""
    import real_host as host
    from narrow_models import make_model

    model = make_model(family)
    table = ap.report(ap.patch_model(model, _anywhere(model))).wanted
    return Host(
        model, lambda m: host.sample(m, size=(16, 16), steps=1), [one.channels for one in table]
    )


def _anywhere(model: Any) -> ImagePrompt:
    from attnpatch.hosts.comfyui.unet.layers import read_layer_table

    return make_prompt([layer.channels for layer in read_layer_table(model.model.diffusion_model)])


def make_prompt(channels: Sequence[int], **options: Any) -> ImagePrompt:
    """Make an image prompt of random keys and values."""
    generator = torch.Generator().manual_seed(1)

    def pairs() -> list[tuple[Tensor, Tensor]]:
        shapes = [(1, TOKENS, c) for c in channels]
        return [
            (torch.randn(s, generator=generator), torch.randn(s, generator=generator))
            for s in shapes
        ]

    return ImagePrompt.from_keys_values(pairs(), pairs(), **options)


def take(host: Host, model: Any, kind: str) -> list[Taken]:
    """Run a step and return the calls of all slots of a kind, in the order of the layers."""
    spied = model.clone()
    spied.model_options.pop("sampler_post_cfg_function", None)  # ordinary passes alone
    options = spied.model_options["transformer_options"]
    slots = options["patches_replace"][kind]
    found: list[Taken] = []

    def spy(key: tuple[Any, ...], slot: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def called(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            # The host says there that the spy stands in the place of ours.
            extra = {name: value for name, value in extra.items() if name != OTHERS}
            found.append(Taken(key, q, k, v, extra))
            return slot(q, k, v, extra)

        return called

    for key, slot in list(slots.items()):
        slots[key] = spy(key, slot)
    host.run(spied)
    return found[: len(slots)]


def cpu_times(
    call: Callable[[int], Any], alone: Callable[[int], Any], rounds: int
) -> tuple[float, float]:
    """Return the CPU time that each of two calls takes, in seconds.

    Both in turn; of each the tenth percentile, for what else a machine does only adds.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for function, found in zip((call, alone), times, strict=True):
            begin = time.thread_time()
            function(number)
            found.append(time.thread_time() - begin)
    ours, direct = (statistics.quantiles(found, n=10)[0] for found in times)
    return ours, direct


def per_site(
    slots: dict[Any, Callable[..., Tensor]],
    taken: list[Taken],
    direct: Callable[[Taken], Callable[[], Tensor]],
    rounds: int,
) -> tuple[float, float]:
    """Return microseconds a site beside its arithmetic, and the arithmetic's time over all."""
    calls = [(slots[one.key], one) for one in taken]
    arithmetic = [direct(one) for one in taken]
    options = []
    for _ in range(rounds):  # a host makes these anew in each call of the UNet
        shape = list(taken[0].options["original_shape"])
        options.append([one.options | {"original_shape": shape} for one in taken])

    def patched(number: int) -> None:
        for (slot, one), extra in zip(calls, options[number], strict=True):
            slot(one.q, one.k, one.v, extra)

    def alone(_: int) -> None:
        for call in arithmetic:
            call()

    for number in range(min(3, rounds)):
        patched(number)
        alone(number)
    ours, direct = cpu_times(patched, alone, rounds)
    return 1e6 * (ours - direct) / len(taken), direct / ours


def heads_of(one: Taken) -> list[Tensor]:
    """Return q, k and v as (B, H, N, D)."""
    heads = one.options["n_heads"]
    return [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (one.q, one.k, one.v)]


def fused(branches: int, masked: bool) -> Callable[[Taken], Callable[[], Tensor]]:
    """Return the operator's call for a site."""

    def make(one: Taken) -> Callable[[], Tensor]:
        q, k, v = heads_of(one)
        batch, heads, tokens, size = q.shape
        image = [torch.randn(2, heads, TOKENS, size) for _ in range(branches)]
        rows = [torch.arange(batch) % 2] * branches
        weights = torch.ones(branches, batch)
        masks = torch.ones(branches, 1, tokens) if masked else None
        return lambda: branch_attention_flat(q, k, v, image, image, rows, weights, masks)

    return make


def plain(one: Taken) -> Callable[[], Tensor]:
    """Return the host's own attention for a site."""
    if REAL:
        from comfy.ldm.modules.attention import optimized_attention
    else:
        from protocol_unet import optimized_attention
    heads, options = one.options["n_heads"], one.options
    return lambda: optimized_attention(one.q, one.k, one.v, heads, transformer_options=options)


def two_attentions(one: Taken) -> Callable[[], Tensor]:
    """Return the arithmetic of the public pack at a site: two attentions, a weight, a sum."""
    q, k, v = heads_of(one)
    image = torch.randn(q.shape[0], q.shape[1], TOKENS, q.shape[3])

    def call() -> Tensor:
        term = F.scaled_dot_product_attention(q, image, image)
        return F.scaled_dot_product_attention(q, k, v) + term * 0.8

    return call


def cases(host: Host) -> list[tuple[str, Any, str, Callable[[Taken], Callable[[], Tensor]]]]:
    """Return (what, model, kind of slot, arithmetic)."""
    prompt = make_prompt(host.channels)
    mask = torch.rand(64, 64)
    masked = make_prompt(host.channels, mask=mask, start=0.0, end=0.9)
    patch = ap.patch_model
    found = [
        ("one image prompt", patch(host.model, prompt), "attn2", fused(1, False)),
        ("two image prompts, masked", patch(host.model, [masked] * 2), "attn2", fused(2, True)),
        (
            "image prompt outside of its window",
            patch(host.model, make_prompt(host.channels, start=0.9)),
            "attn2",
            plain,
        ),
        (
            "guidance, ordinary pass",
            patch(host.model, ap.SmoothedEnergyGuidance()),
            "attn1",
            plain,
        ),
    ]
    return found


def public_case(host: Host, family: str) -> tuple[Any, ...]:
    """Return the public pack's image prompt as a case."""
    import reference_pack
    from narrow_adapters import make_features, make_state

    with reference_pack.middle_block():
        model = reference_pack.apply(host.model, make_state(family), make_features())
    return "image prompt of IPAdapter_plus", model, "attn2", two_attentions


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_arguments(parser, rounds=200)
    parser.add_argument("--families", nargs="+", default=["sd1", "sdxl"], choices=list(NAMES))
    args = parser.parse_args()
    if args.dtype != "float32":
        parser.error(f"--dtype: expected float32, got {args.dtype}")
    args.threads = 1
    torch.set_num_threads(args.threads)
    notes = "CPU time beside a layer's arithmetic", "ComfyUI" if REAL else "the tests' host"
    with Measuring(args, *notes).running() as measuring:
        table = measuring.table(
            "overhead", ("model", "layers", "patch"), ("µs a layer", "/arithmetic")
        )
        for family in args.families:
            host = real_host(family) if REAL else protocol_host(family)
            rows = cases(host)
            if REAL and PUBLIC:
                rows.append(public_case(host, family))
            for what, model, kind, direct in rows:
                with torch.inference_mode():
                    taken = take(host, model, kind)
                    slots = model.model_options["transformer_options"]["patches_replace"][kind]
                    figures = per_site(slots, taken, direct, args.rounds)
                table.add((NAMES[family], len(taken), what), figures)


if __name__ == "__main__":
    main()
