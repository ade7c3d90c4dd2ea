# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An interactive cell: a stack's parameters beside a live preview."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from attnpatch.engine import Patch, PatchStack
from attnpatch.engine.weights import whole_number
from attnpatch.hosts import attached
from attnpatch.hosts.recognition import diffusers_denoiser
from attnpatch.notebook.code import Origin
from attnpatch.notebook.preview import STEPS, Preview
from attnpatch.notebook.writing import names_in
from attnpatch.pictures import Pictures

if TYPE_CHECKING:
    from attnpatch.notebook.widgets import Explorer

__all__ = ["explore"]


def explore(
    pipeline: Any,
    patches: Patch | Sequence[Patch] | None = None,
    *,
    generate: Callable[[Any, int], Pictures] | None = None,
    steps: int = 4,
    seed: int = 0,
    **arguments: Any,
) -> Explorer:
    """Show sliders and masks for patches beside pictures that follow them, in a notebook.

    A preview takes few steps; a newer value stops the one that is running, at its next call of the
    model, and so does a button. The pipeline stays as it is: previews run on a patched copy that
    shares its weights, in a thread. Keys and values of image prompts are kept, whatever is changed.

    Parameters
    ----------
    pipeline
        Of diffusers.
    patches : Patch, sequence of Patch or None
        What to change; None: what is attached to the pipeline.
    generate : callable or None
        ``generate(pipeline, steps)`` makes the pictures of a preview: a picture, or a list. None:
        the pipeline is called with ``num_inference_steps``, a ``generator``, and `arguments`.
    steps : int
        Of a preview; a slider changes it.
    seed : int
        Of each preview, so that only the patches change a picture. Noise comes from the CPU, and
        is the same on all devices.
    **arguments
        Of the pipeline: ``prompt="a cat"``, ``height=384``, …. ``num_inference_steps`` is what the
        code asks for; without it, that is the steps of the preview. A ``generator`` is copied as
        it is now, for each preview and instead of the seed.

    Returns
    -------
    Explorer
        What the cell shows; ``stack`` and ``code`` are what the sliders say now.

    Raises
    ------
    ImportError
        Without ipywidgets or anywidget.
    TypeError, ValueError
        For what is no pipeline of diffusers, for patches that do not fit it, where there are none,
        and for other arguments than those above.

    Examples
    --------
    >>> cell = ap.explore(pipeline, [prompt, ap.SelfAttentionGuidance(0.5)], prompt="a cat")
    >>> cell
    >>> cell.stack.save("liked.safetensors")
    """
    for name in ("ipywidgets", "anywidget"):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"explore: it needs {name}; pip install 'attnpatch[notebook]'")
    steps = whole_number("steps", steps, 1)
    seed = whole_number("seed", seed, 0, 2**64 - 1)
    if not callable(pipeline) or diffusers_denoiser(pipeline) in (None, pipeline):
        raise TypeError(
            f"pipeline: expected a pipeline of diffusers, got {type(pipeline).__qualname__}"
        )
    there = attached(pipeline)
    stack = there if patches is None else PatchStack(patches)
    if not stack:
        raise ValueError("patches: expected at least one, got none, and none are attached")
    _check_noise(generate, seed, arguments)
    preview = Preview(pipeline, stack, generate, seed, arguments)
    names = names_in(sys._getframe(1))  # what the code calls them
    origin = Origin(pipeline, patches, stack, names, attached=bool(there))
    return import_module("attnpatch.notebook.widgets").Explorer(preview, origin, steps)


def _check_noise(generate: object, seed: int, arguments: dict[str, Any]) -> None:
    """Check what makes pictures, of what noise."""
    if generate is not None and not callable(generate):
        raise TypeError(f"generate: expected a function or None, got {generate!r}")
    if generate is not None and (arguments or seed):
        given = ", ".join([*arguments, *(["seed"] if seed else [])])
        raise TypeError(f"generate: expected it alone, as it calls the pipeline; got {given} too")
    if arguments.get(STEPS) is not None:
        arguments[STEPS] = whole_number(STEPS, arguments[STEPS], 1)
    noise = arguments.get("generator")
    several = noise if isinstance(noise, list | tuple) else [noise]
    if noise is not None and not all(isinstance(one, torch.Generator) for one in several):
        raise TypeError(f"generator: expected a torch.Generator, or a list of them, got {noise!r}")
    if noise is not None and seed:
        raise ValueError(f"seed: expected none beside a generator, got {seed}")
