# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that make weights for the frames of a batch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from attnpatch.nodes.spec import Input, NodeSpec, Output

__all__ = ["NODES"]

_STRATEGY = (
    "weights",
    "timing",
    "frames",
    "start_frame",
    "end_frame",
    "add_starting_frames",
    "add_ending_frames",
    "method",
)
# How far a ramp has come, 0 to 1, after a share x of its frames.
_RAMPS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "ease_in_out": lambda x: (1 - math.cos(x * math.pi)) / 2,
    "ease_in": lambda x: math.sin(x * math.pi / 2),
    "ease_out": lambda x: 1 - math.cos(x * math.pi / 2),
}
_METHODS = ("full batch", "shift batches", "alternate batches")

Weights = list[float]


def _weights(*, image: Tensor | None, **plan: Any) -> tuple[Any, ...]:
    """Make the weights of all frames, and the pictures that fade into each other."""
    strategy = {**plan, "frame_count": 0 if image is None else len(image)}
    return _follow(strategy, image)


def _from_strategy(*, weights_strategy: Mapping[str, Any], image: Tensor | None) -> tuple[Any, ...]:
    return _follow(weights_strategy, image)


def _follow(strategy: Mapping[str, Any], image: Tensor | None) -> tuple[Any, ...]:
    weights = _ramp(strategy) or [0.0]
    first = second = None
    if image is not None:
        weights, first, second = _spread(weights, image, strategy["method"])
        before, after = strategy["add_starting_frames"], strategy["add_ending_frames"]
        weights = [weights[0]] * before + weights + [weights[-1]] * after
        first = _extend(first, image, before, after)
        second = None if second is None else _extend(second, image, before, after)
    return weights, weights[::-1], len(weights), first, second, dict(strategy)


def _ramp(strategy: Mapping[str, Any]) -> Weights:
    """Make the weights of one transition."""
    text = strategy["weights"].replace("\n", ",")
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(
            f"weights: expected numbers with commas between them, got {strategy['weights']!r}"
        ) from None
    timing = strategy["timing"]
    if timing == "custom":
        return numbers
    frames = max(strategy["frames"], 2)
    start, end = (numbers[0], numbers[-1]) if numbers else (0.0, 1.0)
    before = strategy["start_frame"]
    last = min(strategy["end_frame"], frames)
    count = max(last - before, 0)
    if timing == "random":
        # The same inputs give the same numbers, without touching anybody's generator.
        source = random.Random(repr([strategy[name] for name in _STRATEGY]))
        ramp = [source.uniform(start, end) for _ in range(count)]
    else:
        far = [_RAMPS[timing](i / max(count - 1, 1)) for i in range(count)]
        ramp = [start + (end - start) * x for x in far]
    weights = [start] * before + ramp
    if weights and timing != "random":
        weights[-1] = end
    return weights + [end] * (frames - last)


def _spread(weights: Weights, image: Tensor, method: str) -> tuple[Weights, Tensor, Tensor | None]:
    """Repeat a transition over the pictures; with the two pictures of every frame."""
    if method != "full batch" and len(image) < 2:
        raise ValueError(f"image: expected at least 2 pictures for {method!r}, got {len(image)}")
    frames = len(weights)
    second: Tensor | None = None
    if method == "shift batches":
        first, second = image[:-1], image[1:]
        total = weights * len(first)
    elif method == "alternate batches":
        # Even and odd pictures take turns: each stays for the way there and the way back.
        first = image[::2].repeat_interleave(2, 0)[1:]
        second = image[1::2].repeat_interleave(2, 0)
        back = [max(weights) - (weight - min(weights)) for weight in weights]
        total = (weights + back) * (len(first) // 2)
        if len(image) % 2:
            first = first[:-1]
        else:
            second = second[:-1]
            total = total + weights
    else:
        first = image
        total = weights * len(image)
    if second is not None:
        second = second.repeat_interleave(frames, 0)
    return total, first.repeat_interleave(frames, 0), second


def _extend(frames: Tensor, image: Tensor, before: int, after: int) -> Tensor:
    head = image[:1].expand(before, *image.shape[1:])
    tail = image[-1:].expand(after, *image.shape[1:])
    return torch.cat([head, frames, tail])


def _schedule(*, weights_strategy: Mapping[str, Any], prompt: str) -> tuple[str]:
    """Write one prompt a line as a schedule by frames."""
    prompts = [line for line in prompt.split("\n") if line.strip()]
    count = weights_strategy["frame_count"]
    if not prompts or count < 1:
        return ("",)
    prompts = prompts[:count] + prompts[-1:] * (count - len(prompts))
    frames, before = weights_strategy["frames"], weights_strategy["add_starting_frames"]
    entries = [(0, prompts[0])] if before > 0 else []
    entries += [(number * frames + before, text) for number, text in enumerate(prompts)]
    if weights_strategy["add_ending_frames"] > 0:
        entries.append((count * frames + before, prompts[-1]))
    return ("".join(f'"{frame}": "{text}",\n' for frame, text in entries),)


def _join(*, weights_1: float | Weights, weights_2: float | Weights) -> tuple[Weights, int]:
    parts = [value if isinstance(value, list) else [value] for value in (weights_1, weights_2)]
    weights = parts[0] + parts[1]
    return weights, len(weights)


def _frames(name: str, tooltip: str, default: int = 0) -> Input:
    return Input(
        id=name, type="INT", default=default, minimum=0, maximum=9999, step=1, tooltip=tooltip
    )


def _single(name: str) -> Input:
    return Input(
        id=name,
        type="FLOAT",
        default=0.0,
        minimum=0.0,
        maximum=1.0,
        step=0.05,
        tooltip="A weight, or a list of weights from another node.",
    )


_IMAGE = Input(
    id="image", type="IMAGE", tooltip="The pictures that fade into each other.", optional=True
)
_STRATEGY_IN = Input(
    id="weights_strategy", type="WEIGHTS_STRATEGY", tooltip="From an IPAdapter Weights node."
)
_OUTPUTS = (
    Output("FLOAT", "weights", "A weight for each frame."),
    Output("FLOAT", "weights_invert", "The same from last to first."),
    Output("INT", "total_frames", "How many frames there are."),
    Output("IMAGE", "image_1", "The picture of each frame that fades."),
    Output("IMAGE", "image_2", "The picture of each frame that comes instead."),
    Output("WEIGHTS_STRATEGY", "weights_strategy", "The settings, for other nodes."),
)
_CATEGORY = "ipadapter/weights"

NODES = (
    NodeSpec(
        id="IPAdapterWeights",
        title="IPAdapter Weights",
        category=_CATEGORY,
        description="Makes a weight for each frame, and pictures that fade into each other.",
        inputs=(
            Input(
                id="weights",
                type="STRING",
                default="1.0, 0.0",
                multiline=True,
                tooltip="Numbers with commas or lines between them. Timing custom: one for each "
                "frame; else the first and the last of a ramp.",
            ),
            Input(
                id="timing",
                type="COMBO",
                choices=("custom", *_RAMPS, "random"),
                default="linear",
                tooltip="The form of the ramp. Random numbers depend on these inputs alone.",
            ),
            _frames("frames", "Frames of a ramp, at least 2."),
            _frames("start_frame", "The frame at which the ramp begins."),
            _frames("end_frame", "The frame at which it ends.", default=9999),
            _frames("add_starting_frames", "Frames that show the first picture before."),
            _frames("add_ending_frames", "Frames that show the last picture afterwards."),
            Input(
                id="method",
                type="COMBO",
                choices=_METHODS,
                default="full batch",
                tooltip="How ramps and pictures go together: one ramp a picture, each picture into "
                "the next, or even and odd pictures in turn.",
            ),
            _IMAGE,
        ),
        outputs=_OUTPUTS,
        run=_weights,
    ),
    NodeSpec(
        id="IPAdapterWeightsFromStrategy",
        title="IPAdapter Weights From Strategy",
        category=_CATEGORY,
        description="Makes weights by the settings of another Weights node.",
        inputs=(_STRATEGY_IN, _IMAGE),
        outputs=_OUTPUTS,
        run=_from_strategy,
    ),
    NodeSpec(
        id="IPAdapterPromptScheduleFromWeightsStrategy",
        title="Prompt Schedule From Weights Strategy",
        category=_CATEGORY,
        description="Writes prompts as a schedule that changes with the pictures.",
        inputs=(
            _STRATEGY_IN,
            Input(
                id="prompt",
                type="STRING",
                default="",
                multiline=True,
                tooltip="A prompt a line, one for each picture; the last serves the rest.",
            ),
        ),
        outputs=(Output("STRING", "prompt_schedule", "Frames and prompts."),),
        run=_schedule,
    ),
    NodeSpec(
        id="IPAdapterCombineWeights",
        title="IPAdapter Combine Weights",
        category="ipadapter/utils",
        description="Puts weights behind weights.",
        inputs=(_single("weights_1"), _single("weights_2")),
        outputs=(
            Output("FLOAT", "weights", "All weights in order."),
            Output("INT", "count", "How many there are."),
        ),
        run=_join,
    ),
)
