# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A user's own model: what verbs ask of it beside the small one, and what goes together."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnpatch_command.arguments import DTYPES, existing, model_source

if TYPE_CHECKING:
    from attnpatch.demo.own_model import OwnOptions

__all__ = ["OF_OWN", "add_own_model", "check_own", "own_options", "take_defaults"]

OF_OWN: Mapping[str, object] = {
    "image_encoder": None,
    "prompt": "best quality, high quality",
    "size": None,
    "device": "cpu",
    "dtype": None,
}
"""What it alone heeds in all verbs that generate pictures, with the defaults."""


def add_own_model(group: Any, size: Callable[[str], int]) -> None:
    """Add the arguments that such verbs share to a group of a parser's; `size` reads the size."""
    group.add_argument(
        *("--model",), type=model_source, help="SD1.5, SD2 or SDXL: a file, a folder or a model ID"
    )
    group.add_argument("--adapter", type=existing, help="an IP-Adapter, .safetensors or .bin")
    group.add_argument(
        *("--image-encoder",), type=model_source, help="CLIP vision model: a folder or a model ID"
    )
    group.add_argument("--prompt", help=f"default: {OF_OWN['prompt']}")
    group.add_argument("--size", type=size, help="edge of the pictures, a multiple of 8")
    group.add_argument("--device", help=f"default: {OF_OWN['device']}")
    group.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, else float16")


def check_own(
    arguments: argparse.Namespace, together: Sequence[str], others: Mapping[str, object]
) -> None:
    """Check that all that an own model needs is given, or nothing of it.

    Parameters
    ----------
    arguments
        As they were parsed.
    together
        What it needs.
    others
        What it alone heeds beside, with the defaults.

    Raises
    ------
    ValueError
        Naming the options.
    """
    missing = [name for name in together if not getattr(arguments, name)]
    if 0 < len(missing) < len(together):
        raise ValueError(f"{_options(missing)}: needed with the others of {_options(together)}")
    lonely = [name for name in others if getattr(arguments, name) is not None]
    if missing and lonely:
        raise ValueError(
            f"{_options(lonely)}: expected with {_options(together)}, the small model heeds none"
        )


def take_defaults(arguments: argparse.Namespace, others: Mapping[str, object]) -> None:
    """Set what was not given."""
    for name, value in others.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)


def own_options(arguments: argparse.Namespace, **more: Any) -> OwnOptions:
    """Return what an own model is made of: what the verbs share, on a device that is here.

    Raises
    ------
    ValueError
        For a device that is not here.
    """
    import torch

    from attnpatch.demo.own_model import OwnOptions
    from attnpatch.devices import check_device

    check_device(arguments.device)
    on_cpu = torch.device(arguments.device).type == "cpu"
    dtype = arguments.dtype or ("float32" if on_cpu else "float16")
    return OwnOptions(
        model=arguments.model,
        adapter=arguments.adapter,
        image_encoder=arguments.image_encoder,
        prompt=arguments.prompt,
        steps=arguments.steps,
        size=arguments.size,
        device=arguments.device,
        dtype=getattr(torch, dtype),
        **more,
    )


def _options(names: Sequence[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)
