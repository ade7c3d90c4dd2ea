# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Face networks of the signatures of insightface's files, small and made here."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
OUTPUTS = ("448", "471", "494", "451", "474", "497", "454", "477", "500")
WIDTHS = (1, 4, 10)  # scores, boxes, keypoints


class Graph:
    """An ONNX graph that grows by one operation at a time."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def add(self, operation, *inputs, name=None, **attributes):
        output = name or f"t{len(self.nodes)}"
        if operation == "Conv":  # optional in ONNX, not in OpenCV 4.6; exports always have it
            attributes.setdefault("kernel_shape", list(inputs[1].shape[2:]))
        names = [i if isinstance(i, str) else self.hold(i) for i in inputs]
        self.nodes.append(helper.make_node(operation, names, [output], **attributes))
        return output

    def hold(self, values):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def save(self, shape, outputs, opset=11, ir=8):
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = ir
        onnx.checker.check_model(model)
        return model.SerializeToString()


def as_rows(graph, states, width, batched, name):
    """(1, anchors · width, h, w) as rows of `width` values, as exports of SCRFD have them."""
    rows = graph.add("Transpose", states, perm=[0, 2, 3, 1])
    shape = [1, -1, width] if batched else [-1, width]
    return graph.add("Reshape", rows, np.array(shape, dtype=np.int64), name=name)


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


def make_mtcnn_detector():
    """A detector of SCRFD's signature from the last network of MTCNN, as facenet-pytorch ships it.

    That network (arXiv 1604.02878) looks at one window of 48 pixels; here it looks at all windows,
    8 pixels apart, of the picture at whole, half and quarter size. None: it is not installed.
    """
    package = importlib.util.find_spec("facenet_pytorch")
    if package is None:
        return None
    file = Path(package.submodule_search_locations[0], "data", "onet.pt")
    state = {k: v.numpy() for k, v in torch.load(file, weights_only=True).items()}
    graph = Graph()

    def layer(states, number, pool):
        states = graph.add(
            "Conv", states, state[f"conv{number}.weight"], state[f"conv{number}.bias"]
        )
        states = graph.add("PRelu", states, state[f"prelu{number}.weight"].reshape(-1, 1, 1))
        if pool:
            window = {"kernel_shape": [pool, pool], "strides": [2, 2], "ceil_mode": 1}
            states = graph.add("MaxPool", states, **window)
        return states

    dense = state["dense5.weight"].reshape(256, 3, 3, 128).transpose(0, 3, 2, 1)
    windows = 48 / 8  # sides of boxes in cells
    for level in range(3):
        states = "input.1"
        if level:
            side = 2**level
            states = graph.add("AveragePool", states, kernel_shape=[side] * 2, strides=[side] * 2)
        states = graph.add(
            "Pad", states, np.array([0, 0, 0, 0, 0, 0, 40, 40]), np.float32(-127.5 / 128)
        )
        for number, pool in ((1, 3), (2, 3), (3, 2), (4, 0)):
            states = layer(states, number, pool)
        states = graph.add("Conv", states, np.ascontiguousarray(dense), state["dense5.bias"])
        states = graph.add("PRelu", states, state["prelu5.weight"].reshape(-1, 1, 1))

        def head(states, number, order, scale, shift=0.0):
            """Rows of a linear layer, times scale and plus shift; then an anchor of zeros."""
            weight = state[f"dense6_{number}.weight"][order] * np.reshape(scale, (-1, 1))
            bias = state[f"dense6_{number}.bias"][order] * scale + shift
            weight = np.concatenate([weight, 0 * weight])[..., None, None]
            bias = np.concatenate([bias, 0 * bias])
            return graph.add("Conv", states, weight.astype(np.float32), bias.astype(np.float32))

        # Two classes: the probability of a face is the sigmoid of their difference.
        weight, bias = state["dense6_1.weight"], state["dense6_1.bias"]
        weight = np.stack([weight[1] - weight[0], 0 * weight[0]])[..., None, None]
        score = graph.add("Conv", states, weight, np.array([bias[1] - bias[0], -99], np.float32))
        heads = [graph.add("Sigmoid", score)]
        sides, ends = windows * np.array([-1, -1, 1, 1]), windows * np.array([0, 0, 1, 1])
        heads.append(head(states, 2, [0, 1, 2, 3], sides, ends))
        order = [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]  # there all x come before all y
        heads.append(head(states, 3, order, np.full(10, windows)))
        for kind, width in enumerate(WIDTHS):
            as_rows(graph, heads[kind], width, False, OUTPUTS[3 * kind + level])
    outputs = [(name, ["rows", WIDTHS[i // 3]]) for i, name in enumerate(OUTPUTS)]
    return graph.save([1, 3, "height", "width"], outputs)


def draw_discs(height, width, discs, seed=0):
    """A noisy picture (H, W, 3), uint8 RGB, with red discs (x, y, radius) on it."""
    random = np.random.default_rng(seed)
    picture = random.integers(60, 120, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    for cx, cy, radius in discs:
        inside = (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
        picture[inside] = (240, 20, 20) + picture[inside] // 4 * (-1, 1, 1)
    return picture
