# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""From the sorted tensors of a state dict to whole adapters, layers in checkpoint order."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import torch

from attnpatch.adapters.diffusers_names import has_diffusers_names, to_published_names
from attnpatch.adapters.layer_names import missing_layers, sort_layers
from attnpatch.adapters.state_dicts import Parts, Tensors, same_values

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Assembled:
    """An adapter's tensors, its name among several of one file, and the form that they came in."""

    choice: str
    image_proj: Tensors
    sites: list[Pair]
    lora: Tensors
    form: str


def assemble_adapters(holders: dict[str, Parts], contents: str) -> list[Assembled]:
    """Put the adapters of a state dict together.

    Parameters
    ----------
    holders : dict of str to Parts
        Of `sort_tensors`.
    contents : str
        What the state dict holds, for errors.

    Raises
    ------
    ValueError
        An incomplete adapter, or parts that do not go together.
    """
    whole = {h: p for h, p in holders.items() if p.projections and p.has_layers}
    part = {h: p for h, p in holders.items() if h not in whole}
    if not whole:
        whole, part = _join_halves(part, contents), {}
    if part:
        holder, parts = next(iter(part.items()))
        lacking = "image_proj" if parts.has_layers else "ip_adapter"
        raise ValueError(f"{holder or 'the top level'}: no tensors of {lacking} there")
    adapters = []
    for holder, parts in whole.items():
        choice = (holder or parts.prefix) if len(whole) > 1 else ""
        adapters += _assemble_holder(parts, choice)
    return adapters


def _join_halves(part: dict[str, Parts], contents: str) -> dict[str, Parts]:
    """Join the one projection and the one set of layers that different holders have."""
    layers = [parts for parts in part.values() if parts.has_layers]
    projections = [parts for parts in part.values() if parts.projections]
    if len(layers) == len(projections) == 1:
        layers[0].projections, layers[0].prefix = projections[0].projections, projections[0].prefix
        layers[0].published &= projections[0].published
        layers[0].loaded = projections[0].loaded
        return {"": layers[0]}
    pairs = (("image_proj", projections), ("ip_adapter", layers))
    missing = [name for name, matches in pairs if not matches]
    if missing:
        raise ValueError(
            f"not an image adapter: no tensors of {' and '.join(missing)}; it holds {contents}"
        )
    raise ValueError(
        f"{len(projections)} projections and {len(layers)} sets of layers under different names "
        f"({', '.join(part)}): which belong together does not show"
    )


def _assemble_holder(parts: Parts, choice: str) -> list[Assembled]:
    indices = _pair_indices(parts)
    count = len(indices)
    adapters = []
    for projection, layers in indices:
        index = projection if layers is None else layers
        tensors = parts.projections[projection]
        if has_diffusers_names(list(tensors)):
            tensors = to_published_names(tensors)
        sites, lora = _order_layers(parts, layers, index)
        name = ".".join(filter(None, [choice, str(index) if count > 1 else ""]))
        form = _describe_form(parts, layers)
        if count > 1:
            form += f", adapter {index} of {count}"
        adapters.append(Assembled(name, tensors, sites, lora, form))
    return adapters


def _pair_indices(parts: Parts) -> list[tuple[int | None, int | None]]:
    """Which projection belongs to which layers, by their places in diffusers' lists."""
    projections = sorted(parts.projections, key=lambda index: -1 if index is None else index)
    layers = sorted(
        parts.numbered.keys() | parts.named.keys(),
        key=lambda index: -1 if index is None else index,
    )
    if projections == layers or len(projections) == len(layers) == 1:
        return list(zip(projections, layers, strict=True))
    raise ValueError(
        f"image_proj and ip_adapter do not belong together: projections {_listed(projections)}, "
        f"layers {_listed(layers)}"
    )


def _listed(indices: list[int | None]) -> str:
    return ", ".join("without a number" if index is None else str(index) for index in indices)


def _describe_form(parts: Parts, layers: int | None) -> str:
    if parts.loaded:
        form = "diffusers UNet with the adapter loaded"
    elif layers in parts.numbered:
        form = "published" if parts.published else "training script"
    else:
        form = "layers by the UNet's names"
    return f"{form}, under {parts.prefix}" if parts.prefix else form


def _order_layers(
    parts: Parts, index: int | None, adapter: int | None
) -> tuple[list[Pair], Tensors]:
    """Pairs of weights in checkpoint order and LoRA tensors, from either kind of names."""
    if index not in parts.numbered:
        sites = _order_named(parts.named[index], parts)
    else:
        sites = _order_numbered(parts.numbered[index])
        attending = _attending(parts, sites[0][0].shape[1])
        if attending and len(sites) != len(attending):
            raise ValueError(
                f"ip_adapter: missing layers: {len(sites)} are there, the UNet beside them has "
                f"{len(attending)}"
            )
        if index in parts.named and not _same_sites(sites, _order_named(parts.named[index], parts)):
            raise ValueError(
                "ip_adapter: the numbered weights and those by the UNet's names are not the same"
            )
    return sites, _join_lora(parts, index, adapter)


def _join_lora(parts: Parts, index: int | None, adapter: int | None) -> Tensors:
    """LoRA tensors of either kind of names; every product needs both its factors."""
    lora = dict(parts.numbered_lora)
    for name, tensor in _order_lora(parts, index, adapter).items():
        if name in lora and not same_values(lora[name], tensor):
            raise ValueError(f"ip_adapter: two tensors of different values for {name}")
        lora[name] = tensor
    halves = {"up": "down", "down": "up"}
    others = [re.sub(r"(?<=_lora\.)(up|down)", lambda m: halves[m[0]], name) for name in lora]
    if lacking := [name for name in others if name not in lora]:
        raise ValueError(f"ip_adapter: missing {_first(lacking)}")
    return lora


def _same_sites(a: list[Pair], b: list[Pair]) -> bool:
    return len(a) == len(b) and all(
        same_values(left, right)
        for ours, theirs in zip(a, b, strict=True)
        for left, right in zip(ours, theirs, strict=True)
    )


def _order_lora(parts: Parts, index: int | None, adapter: int | None) -> Tensors:
    """LoRA tensors by number: every layer of the UNet counts, self-attention before cross."""
    indices = {None, adapter if adapter is not None else 0}
    layers = [*parts.named.get(index, {}), *parts.unet]
    wanted = {key: value for i in indices for key, value in parts.named_lora.get(i, {}).items()}
    layers += [layer for layer, _ in wanted]
    numbers = {layer: 2 * position for position, layer in enumerate(sort_layers(set(layers)))}
    return {
        f"{numbers[layer] + attention - 1}.{name}": tensor
        for (layer, attention), tensors in wanted.items()
        for name, tensor in tensors.items()
    }


def _order_named(layers: dict[str, Tensors], parts: Parts) -> list[Pair]:
    names = sort_layers(layers)
    halves = [
        f"{name}.attn2.to_{letter}_ip.weight"
        for name in names
        for letter in "kv"
        if letter not in layers[name]
    ]
    if halves:
        raise ValueError(f"ip_adapter: missing {_first(halves)}")
    pairs = {f"{name}.attn2": (layers[name]["k"], layers[name]["v"]) for name in names}
    context = _check_pairs(pairs)
    if missing := missing_layers(layers, context, _attending(parts, context)):
        raise ValueError(
            f"ip_adapter: missing {_first([f'{name}.attn2.to_k_ip.weight' for name in missing])}"
        )
    return list(pairs.values())


def _attending(parts: Parts, context: int) -> list[str]:
    """Name the layers of the UNet in the file that attend to tokens of an adapter's size."""
    return [name for name, shape in parts.unet.items() if shape[-1] == context]


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _order_numbered(by_number: dict[int, Tensors]) -> list[Pair]:
    numbers = sorted(by_number)
    step = min((b - a for a, b in itertools.pairwise(numbers)), default=numbers[0] + 1)
    wanted = set(range(numbers[0] % step, numbers[-1] + 1, step))
    missing = [
        f"{n}.to_{letter}_ip.weight"
        for n in sorted(wanted | set(numbers))
        for letter in "kv"
        if letter not in by_number.get(n, {})
    ]
    if missing:
        raise ValueError(f"ip_adapter: missing {_first(missing)}")
    pairs = {str(n): (by_number[n]["k"], by_number[n]["v"]) for n in numbers}
    _check_pairs(pairs)
    return list(pairs.values())


def _check_pairs(pairs: dict[str, Pair]) -> int:
    """Check that all weights take tokens of one size, and return that."""
    first = next(iter(pairs.values()))[0]
    context = first.shape[-1] if first.dim() == 2 else -1
    for name, (key, value) in pairs.items():
        if key.dim() != 2 or key.shape != value.shape or key.shape[1] != context:
            raise ValueError(
                f"ip_adapter: {name}.to_k_ip.weight is {tuple(key.shape)} and "
                f"{name}.to_v_ip.weight {tuple(value.shape)}; both must be (channels, "
                f"{max(context, 0) or 'context'})"
            )
    return context
