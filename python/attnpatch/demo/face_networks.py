# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Face detectors made at run time: ONNX graphs, and one with weights that another package ships."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["OUTPUTS", "WIDTHS", "Graph", "as_rows", "make_mtcnn_detector"]

# What detectors of insightface's packs give, for strides 8, 16 and 32 each.
OUTPUTS = ("448", "471", "494", "451", "474", "497", "454", "477", "500")
WIDTHS = (1, 4, 10)  # scores, boxes, keypoints

_State = Mapping[str, npt.NDArray[np.float32]]


class Graph:
    """An ONNX graph that grows by one operation at a time."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(
        self,
        operation: str,
        *inputs: str | npt.ArrayLike,
        name: str | None = None,
        **attributes: Any,
    ) -> str:
        """Add an operation on earlier results and on constants; returns the name of its result."""
        from onnx import helper

        output = name or f"t{len(self.nodes)}"
        if operation == "Conv":  # optional in ONNX, not in OpenCV 4.6; exports always have it
            attributes.setdefault("kernel_shape", list(np.shape(inputs[1])[2:]))
        names = [i if isinstance(i, str) else self.hold(i) for i in inputs]
        self.nodes.append(helper.make_node(operation, names, [output], **attributes))
        return output

    def hold(self, values: npt.ArrayLike) -> str:
        """Keep a constant; returns its name."""
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def save(
        self,
        shape: Sequence[int | str],
        outputs: Sequence[tuple[str, Sequence[int | str]]],
        opset: int = 11,
        ir: int = 8,
    ) -> bytes:
        """Write the file: a graph from "input.1" of this shape to results (name, shape)."""
        import onnx
        from onnx import TensorProto, helper

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


def as_rows(graph: Graph, states: str, width: int, batched: bool, name: str) -> str:
    """Add (1, anchors · width, h, w) as rows of `width` values, as exports of SCRFD have them."""
    rows = graph.add("Transpose", states, perm=[0, 2, 3, 1])
    shape = [1, -1, width] if batched else [-1, width]
    return graph.add("Reshape", rows, np.array(shape, dtype=np.int64), name=name)


def _layer(graph: Graph, state: _State, states: str, number: int, pool: int) -> str:
    """Add a convolution of the network, its PReLU, and max-pooling by `pool`; 0: none."""
    states = graph.add("Conv", states, state[f"conv{number}.weight"], state[f"conv{number}.bias"])
    states = graph.add("PRelu", states, state[f"prelu{number}.weight"].reshape(-1, 1, 1))
    if pool:
        window = {"kernel_shape": [pool, pool], "strides": [2, 2], "ceil_mode": 1}
        states = graph.add("MaxPool", states, **window)
    return states


def _head(
    graph: Graph,
    state: _State,
    states: str,
    number: int,
    order: list[int],
    scale: npt.ArrayLike,
    shift: npt.ArrayLike = 0,
) -> str:
    """Add the rows of a linear layer, times scale and plus shift; then an anchor of zeros."""
    weight = state[f"dense6_{number}.weight"][order] * np.reshape(scale, (-1, 1))
    bias = state[f"dense6_{number}.bias"][order] * np.asarray(scale) + np.asarray(shift)
    weight = np.concatenate([weight, 0 * weight])[..., None, None]
    bias = np.concatenate([bias, 0 * bias])
    return graph.add("Conv", states, weight.astype(np.float32), bias.astype(np.float32))


def make_mtcnn_detector() -> bytes | None:
    """Make a detector of SCRFD's signature from MTCNN's last network, as facenet-pytorch ships it.

    That network (arXiv 1604.02878) looks at one window of 48 pixels; here it looks at all windows,
    8 pixels apart, of the picture at whole, half and quarter size. None: it is not installed.
    """
    package = importlib.util.find_spec("facenet_pytorch")
    if package is None or not package.submodule_search_locations:
        return None
    file = Path(package.submodule_search_locations[0], "data", "onet.pt")
    state = {k: v.numpy() for k, v in torch.load(file, weights_only=True).items()}
    graph = Graph()

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
            states = _layer(graph, state, states, number, pool)
        states = graph.add("Conv", states, np.ascontiguousarray(dense), state["dense5.bias"])
        states = graph.add("PRelu", states, state["prelu5.weight"].reshape(-1, 1, 1))

        # Two classes: the probability of a face is the sigmoid of their difference.
        weight, bias = state["dense6_1.weight"], state["dense6_1.bias"]
        weight = np.stack([weight[1] - weight[0], 0 * weight[0]])[..., None, None]
        score = graph.add("Conv", states, weight, np.array([bias[1] - bias[0], -99], np.float32))
        heads = [graph.add("Sigmoid", score)]
        sides, ends = windows * np.array([-1, -1, 1, 1]), windows * np.array([0, 0, 1, 1])
        heads.append(_head(graph, state, states, 2, [0, 1, 2, 3], sides, ends))
        order = [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]  # there all x come before all y
        heads.append(_head(graph, state, states, 3, order, np.full(10, windows)))
        for head, width in enumerate(WIDTHS):
            as_rows(graph, heads[head], width, False, OUTPUTS[3 * head + level])
    outputs = [(name, ["rows", WIDTHS[i // 3]]) for i, name in enumerate(OUTPUTS)]
    return graph.save([1, 3, "height", "width"], outputs)
