# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Face networks of the signatures of insightface's files, small and made here."""

import numpy as np
import onnx  # noqa: F401  (what is made here is written with it)

from attnpatch.demo.face_networks import (
    OUTPUTS,
    WIDTHS,
    Graph,
    as_rows,
    make_mtcnn_detector,
)

__all__ = ["draw_discs", "make_detector", "make_mtcnn_detector", "make_recogniser"]

STRIDES = (8, 16, 32)


def resize_like(graph, states, like):
    """Resize to another tensor's sides by a chain of Shape, Slice and Concat, as exports do."""
    one = np.array([0], dtype=np.int64)

    def part(tensor, start, end):
        shape = graph.add("Shape", tensor)
        bounds = (np.array([start], dtype=np.int64), np.array([end], dtype=np.int64))
        return graph.add("Slice", shape, *bounds, one)

    sizes = graph.add("Concat", part(states, 0, 2), part(like, 2, 4), axis=0)
    empty = np.array([], dtype=np.float32)
    return graph.add(
        "Resize", states, empty, empty, sizes, mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip


def make_detector(*, size=None, batched=False, chain=False, seed=0, opset=11):
    """SCRFD's signature; scores answer to red discs, boxes and keypoints to whatever is there."""
    random = np.random.default_rng(seed)
    graph = Graph()

    def weights(*shape, scale=0.1):
        return (random.standard_normal(shape) * scale).astype(np.float32)

    red = np.array([1.0, -0.5, -0.5], dtype=np.float32).reshape(1, 3, 1, 1)
    redness = graph.add("Relu", graph.add("Conv", "input.1", red))
    outputs = {}
    coarser = None
    for level in reversed(range(3)):
        stride = STRIDES[level]
        window = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        colors = graph.add("AveragePool", "input.1", **window)
        found = graph.add("AveragePool", redness, **window)
        found = graph.add(
            "AveragePool", found, kernel_shape=[5, 5], pads=[2, 2, 2, 2], count_include_pad=1
        )
        states = graph.add("Conv", colors, weights(6, 3, 3, 3), pads=[1, 1, 1, 1])
        if chain and coarser is not None:
            states = graph.add("Add", states, resize_like(graph, coarser, states))
        coarser = states
        score = graph.add("Conv", found, np.full((2, 1, 1, 1), 3, np.float32),
                          np.array([-2.2, -2.5], np.float32))  # fmt: skip
        heads = [graph.add("Sigmoid", score)]
        for width in WIDTHS[1:]:
            bias = np.tile(2 + random.random(width, dtype=np.float32), 2)
            heads.append(graph.add("Conv", states, weights(2 * width, 6, 1, 1), bias))
        for kind, (head, width) in enumerate(zip(heads, WIDTHS, strict=True)):
            name = OUTPUTS[3 * kind + level]
            as_rows(graph, head, width, batched, name)
            outputs[name] = ([1, "rows", width] if batched else ["rows", width], name)
    shape = [1, 3, size or "height", size or "width"]
    return graph.save(shape, [(name, outputs[name][0]) for name in OUTPUTS], opset)


def make_recogniser(*, size=112, batch=1, seed=0, own_input=False, values=512):
    """ArcFace's signature: pictures in, an embedding of a length of about 20 out."""
    random = np.random.default_rng(seed)

    def weights(*shape):
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return values.astype(np.float32)

    graph = Graph()
    states = "input.1"
    if own_input:  # as networks from MXNet begin
        for operation, value in (("Sub", 127.5), ("Mul", 1 / 128)):
            states = graph.add(operation, states, np.array(value, np.float32))
            graph.nodes[-1].name = f"_{'minus' if operation == 'Sub' else 'mul'}scalar"
    channels = 3
    for width in (8, 16):
        states = graph.add(
            "Conv", states, weights(width, channels, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]
        )
        ones = np.ones(width, np.float32)
        states = graph.add("BatchNormalization", states, ones, 0 * ones, 0 * ones, ones)
        states = graph.add("PRelu", states, np.full((width, 1, 1), 0.25, np.float32))
        channels = width
    flat = graph.add("Flatten", states)
    wide = channels * (size // 4) ** 2
    graph.add("Gemm", flat, 2 * weights(values, wide), transB=1, name="683")
    return graph.save([batch, 3, size, size], [("683", [batch, values])])


def draw_discs(height, width, discs, seed=0):
    """A noisy picture (H, W, 3), uint8 RGB, with red discs (x, y, radius) on it."""
    random = np.random.default_rng(seed)
    picture = random.integers(60, 120, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    for cx, cy, radius in discs:
        inside = (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
        picture[inside] = (240, 20, 20) + picture[inside] // 4 * (-1, 1, 1)
    return picture
