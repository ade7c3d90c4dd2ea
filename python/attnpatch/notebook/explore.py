# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""An interactive cell: a stack's parameters beside a live preview."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from attnpatch.engine import Patch, PatchStack
from attnpatch.hosts import attached
from attnpatch.hosts.recognition import diffusers_denoiser
from attnpatch.notebook.preview import Preview

if TYPE_CHECKING:
    from attnpatch.notebook.widgets import Explorer

__all__ = ["explore"]


def explore(
    pipeline: Any,
    patches: Patch | Sequence[Patch] | None = None,
    *,
    generate: Callable[[Any, int], Any] | None = None,
    steps: int = 4,
    seed: int = 0,
    **arguments: Any,
) -> Explorer:
    """Show sliders for patches beside pictures that follow them, in a notebook.

    A preview takes few steps; a newer value stops the one that is running, at its next call of the
    model. The pipeline stays as it is: previews run on a patched copy that shares its weights, in a
    thread. Keys and values of image prompts are kept, whatever is changed.

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
        Of each preview, so that only the patches change a picture.
    **arguments
        Of the pipeline: ``prompt="a cat"``, ``height=384``, ….

    Returns
    -------
    Explorer
        What the cell shows; ``stack`` and ``code`` are what the sliders say now.

    Raises
    ------
    ImportError
        Without ipywidgets.
    TypeError, ValueError
        For what is no pipeline of diffusers, for patches that do not fit it, and where there are
        none.

    Examples
    --------
    >>> cell = ap.explore(pipeline, [prompt, ap.SelfAttentionGuidance(0.5)], prompt="a cat")
    >>> cell
    >>> cell.stack.save("liked.safetensors")
    """
    if importlib.util.find_spec("ipywidgets") is None:
        raise ImportError("explore: it needs ipywidgets; pip install 'attnpatch[notebook]'")
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    if not callable(pipeline) or diffusers_denoiser(pipeline) in (None, pipeline):
        raise TypeError(
            f"pipeline: expected a pipeline of diffusers, got {type(pipeline).__qualname__}"
        )
    stack = attached(pipeline) if patches is None else PatchStack(patches)
    if not stack:
        raise ValueError("patches: expected at least one, got none, and none are attached")
    if generate is not None and arguments:
        raise TypeError(f"generate: it calls the pipeline itself; got {', '.join(arguments)} too")
    preview = Preview(pipeline, stack, generate, seed, arguments)
    return import_module("attnpatch.notebook.widgets").Explorer(preview, stack, steps)
