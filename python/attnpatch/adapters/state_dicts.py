# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""State dicts as people have them, sorted: which tensors are of which adapter, and of what part."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from attnpatch.adapters.inputs import check_weights
from attnpatch.adapters.layer_names import UNET_BLOCKS

Tensors = dict[str, torch.Tensor]

# Names of the parts: as published, as the training scripts save them, and as a UNet has them.
PARTS = {
    "image_proj": "image_proj",
    "image_proj_model": "image_proj",
    "encoder_hid_proj": "image_proj",
    "ip_adapter": "ip_adapter",
    "adapter_modules": "ip_adapter",
    **dict.fromkeys(UNET_BLOCKS, "unet"),
}
# Wrappers of modules put these into names, at any depth.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Whoever holds a whole model or adapter; says nothing about which one.
_HOLDERS = {
    *("model", "state_dict", "model_state_dict", "network", "net", "pipeline", "pipe"),
    *("unet", "ip_adapter", "adapter", "weights"),
}
# What training checkpoints carry along: entries with tensors in them, and small tensors.
_TRAINER = re.compile(
    r"(^|[._])(optim|optimi[sz]ers?|(lr_)?schedulers?|(grad_)?scalers?|\w*rng|random_states?"
    r"|callbacks|loops)([._]|$)"
)
_COUNTERS = re.compile(r"(^|[._])((global_)?steps?|epochs?|iterations?|loss(es)?)([._]|$)")
COMPANIONS = {
    *("unet", "vae", "text_encoder", "text_encoder_2", "image_encoder", "controlnet"),
    *("conv_in", "conv_out", "conv_norm_out", "time_embedding", "add_embedding"),
    *("class_embedding", "text_encoder_hid_proj"),
}
_FOREIGN = {
    "double_blocks.": "an adapter for Flux",
    "id_adapter": "a PuLID checkpoint",
    "id_encoder": "a PhotoMaker checkpoint",
    "model.diffusion_model.": "a whole Stable Diffusion checkpoint",
    "down_blocks.": "a diffusers UNet or ControlNet",
    "lora_unet_": "a LoRA",
    "vision_model.": "a CLIP vision encoder",
}

_BLOCK = r"(?P<layer>(?:down_blocks|up_blocks|mid_block)\..+?)\.attn(?P<attention>[12])"
_LAYER = re.compile(
    rf"(?:{_BLOCK}|(?P<number>\d+))\.(?:processor\.)?"
    r"to_(?P<letter>[kv])_ip(?:\.(?P<index>\d+))?\.weight"
)
_LORA = re.compile(
    rf"(?:{_BLOCK}|(?P<number>\d+))\.(?:processor\.)?"
    r"to_(?P<matrix>q|k|v|out)_lora\.(?P<half>up|down)\.weight"
)
_PEFT_LORA = re.compile(
    rf"{_BLOCK}\.to_(?P<matrix>q|k|v|out)(?:\.0)?\.lora_(?P<half>[AB])\.faceid_(?P<index>\d+)\.weight"
)
_UNET_LAYER = re.compile(rf"{_BLOCK}\.to_k\.(?:base_layer\.)?weight")
_PROJECTION = re.compile(r"image_projection_layers\.(?P<index>\d+)\.(?P<name>.+)")


class NoAdapterError(ValueError):
    """Readable, but nothing of an image adapter."""


@dataclass
class Parts:
    """The tensors of one holder, by part, and by index where diffusers keeps lists of adapters.

    `numbered` and `named` hold the weights of keys and values, by layer and letter; `unet` the
    shapes of the UNet's own keys of cross-attention.
    """

    prefix: str = ""
    projections: dict[int | None, Tensors] = field(default_factory=dict)
    numbered: dict[int | None, dict[int, Tensors]] = field(default_factory=dict)
    named: dict[int | None, dict[str, Tensors]] = field(default_factory=dict)
    numbered_lora: Tensors = field(default_factory=dict)
    named_lora: dict[int | None, dict[tuple[str, int], Tensors]] = field(default_factory=dict)
    unet: dict[str, torch.Size] = field(default_factory=dict)
    published: bool = True  # whether all names are those of published files
    loaded: bool = False  # whether a UNet of diffusers holds the projection

    @property
    def has_layers(self) -> bool:
        """Whether there are weights of keys and values."""
        return bool(self.numbered or self.named)


def sort_tensors(content: Mapping[Any, object]) -> dict[str, Parts]:
    """Sort the tensors of a state dict of any nesting by who holds them and by part.

    Parameters
    ----------
    content : mapping
        Nested, flat (names with dots) or both.

    Returns
    -------
    dict of str to Parts
        By holder, for example "" and "ema"; prefixes that wrappers add ("module.") tell nothing and
        are no holders. What training checkpoints carry along (a frozen UNet, an optimiser's state)
        is left out.

    Raises
    ------
    NoAdapterError
        There is nothing of an adapter.
    ValueError
        There are tensors that are not understood beside it.
    """
    holders: dict[str, Parts] = {}
    strange = []
    entries = list(_flatten(content))
    for name, value in entries:
        segments = [segment for segment in name.split(".") if segment not in _WRAPPERS]
        where = [position for position, segment in enumerate(segments) if segment in PARTS]
        start = where[-1] if where else len(segments)
        prefix = segments[:start]
        if _TRAINER.search(".".join(prefix)):
            continue
        if not where:
            if isinstance(value, torch.Tensor) and not _is_companion(segments):
                strange.append(name)
            continue
        holder = ".".join(segment for segment in prefix if segment not in _HOLDERS)
        parts = holders.setdefault(holder, Parts())
        _put(parts, ".".join(prefix), segments[start], segments[start + 1 :], name, value)
    adapters = [parts for parts in holders.values() if parts.projections or parts.has_layers]
    if not adapters:
        raise NoAdapterError(_nothing(content, entries))
    if strange:
        raise ValueError(f"unexpected beside image_proj and ip_adapter: {', '.join(strange[:5])}")
    return {
        holder: parts for holder, parts in holders.items() if parts.projections or parts.has_layers
    }


def list_contents(content: Mapping[Any, object]) -> str:
    """Say what a state dict holds: its first names, and how many there are."""
    names = [str(name) for name in content]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "nothing") + more


def _flatten(content: Mapping[Any, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value  # a parameter stays one, for its gradient


def _is_companion(segments: list[str]) -> bool:
    name = ".".join(segments)
    if _TRAINER.search(name) or _COUNTERS.search(name) or "unet" in segments:
        return True
    named = [segment for segment in segments if segment not in _HOLDERS]
    return bool(named) and named[0] in COMPANIONS


def _put(
    parts: Parts, prefix: str, root: str, rest: list[str], full_name: str, value: object
) -> None:
    """Put one entry where it belongs."""
    part, name = PARTS[root], ".".join(rest)
    if part == "ip_adapter" and rest and rest[0] in COMPANIONS:
        return
    if part == "unet":
        name = f"{root}.{name}"
    elif not isinstance(value, torch.Tensor):
        raise ValueError(f"{full_name}: expected a tensor, found {type(value).__name__}")
    if not isinstance(value, torch.Tensor):
        return
    if part == "image_proj":
        if root == "encoder_hid_proj" and name in ("weight", "bias"):  # a projection of text
            return
        parts.prefix = prefix
        index, name = _split_index(name)
        _add(parts.projections.setdefault(index, {}), name, value, full_name)
        parts.loaded |= root == "encoder_hid_proj"
    elif not _put_weights(parts, name, value, full_name) and (
        part == "ip_adapter" or "processor" in rest
    ):
        raise ValueError(f"ip_adapter: unexpected {name}")
    parts.published &= root in ("image_proj", "ip_adapter")


def _put_weights(parts: Parts, name: str, value: torch.Tensor, full_name: str) -> bool:
    """Put weights of keys and values, LoRA tensors or a UNet's own keys; False for others."""
    if match := _LAYER.fullmatch(name):
        if (block := match["layer"]) and (match["attention"] == "1" or "motion_modules" in block):
            raise ValueError(f"ip_adapter: unexpected {name}, as no layer of a text has it")
        index = None if match["index"] is None else int(match["index"])
        if match["number"]:
            pair = parts.numbered.setdefault(index, {}).setdefault(int(match["number"]), {})
        else:
            pair = parts.named.setdefault(index, {}).setdefault(match["layer"], {})
        _add(pair, match["letter"], value, full_name)
    elif match := _LORA.fullmatch(name):
        if match["number"]:
            _add(parts.numbered_lora, name, value, full_name)
        else:
            _add_lora(parts, None, match, match["half"], value, full_name)
    elif match := _PEFT_LORA.fullmatch(name):
        half = "down" if match["half"] == "A" else "up"
        _add_lora(parts, int(match["index"]), match, half, value, full_name)
    elif (match := _UNET_LAYER.fullmatch(name)) and match["attention"] == "2":
        if "motion_modules" not in match["layer"]:
            parts.unet[match["layer"]] = value.shape
    else:
        return False
    return True


def _add_lora(
    parts: Parts, index: int | None, match: re.Match[str], half: str, value: torch.Tensor, name: str
) -> None:
    layer = (match["layer"], int(match["attention"]))
    tensors = parts.named_lora.setdefault(index, {}).setdefault(layer, {})
    _add(tensors, f"to_{match['matrix']}_lora.{half}.weight", value, name)


def _split_index(name: str) -> tuple[int | None, str]:
    match = _PROJECTION.fullmatch(name)
    return (int(match["index"]), match["name"]) if match else (None, name)


def _add(tensors: Tensors, name: str, value: torch.Tensor, full_name: str) -> None:
    if not value.is_floating_point():  # quantised weights mean nothing without their scales
        dtype = str(value.dtype).removeprefix("torch.")
        raise ValueError(f"{full_name}: expected a tensor of floats, found {dtype}")
    check_weights({full_name: value})
    if name in tensors and not same_values(tensors[name], value):
        raise ValueError(f"{full_name}: another tensor of the same name has other values")
    tensors[name] = value


def same_values(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are the same, as far as is known where there is no data."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_meta or b.is_meta:
        return True
    left, right = (t.detach().reshape(-1).contiguous().view(torch.uint8) for t in (a, b))
    return torch.equal(left, right)


def _nothing(content: Mapping[Any, object], entries: list[tuple[str, object]]) -> str:
    for mark, what in _FOREIGN.items():
        if any(name.startswith(mark) for name, _ in entries):
            return f"this is {what}, not an image adapter"
    return (
        "not an image adapter: no tensors of image_proj and ip_adapter; it holds "
        f"{list_contents(content)}"
    )
