# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Model files made to harm: an error that says why, before OpenCV sees them."""

import zipfile

import networks
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch import _vision
from attnpatch.faces import files, find_face_files

PICTURE = networks.draw_discs(64, 64, [(32, 32, 20)])
POINTS = np.array([(20, 20), (40, 20), (30, 30), (22, 40), (38, 40)], np.float32)
MADE = {"detector": networks.make_detector(), "recogniser": networks.make_recogniser(values=4)}


def use(kind, content):
    if kind == "detector":
        return _vision.FaceDetector(content).find(PICTURE, [64], [0.0], 0.5)
    return _vision.FaceRecogniser(content).embed(PICTURE, POINTS)


def side(value):
    def change(graph):
        graph.initializer[1].dims[0] = value

    return change


def many_sides(graph):
    weight = graph.initializer[1]
    del weight.dims[:]
    weight.dims.extend([2**20, 2**20, 3, 3])


def elsewhere(graph):
    weight = graph.initializer[1]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/hostname")


def windows(value):
    def change(graph):
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in ("kernel_shape", "strides", "pads"):
                    attribute.ints[:] = [value] * len(attribute.ints)

    return change


def sides_of_input(value):
    def change(graph):
        for place in (2, 3):
            graph.input[0].type.tensor_type.shape.dim[place].dim_value = value

    return change


def a_circle(graph):
    graph.node[0].input[0] = graph.node[-1].output[0]


def one_name(graph):
    for node in graph.node:
        node.output[0] = "x"


def unknown_operations(graph):
    for node in graph.node:
        node.op_type = "Nope"


def no_outputs(graph):
    del graph.output[:]


def no_inputs(graph):
    del graph.input[:]


HOSTILE = {
    "a side of 2^40": (side(2**40), "a tensor has a side of 1099511627776"),
    "a side below 0": (side(-5), "a tensor has a side of -5"),
    "sides without values": (many_sides, "a tensor has a side"),
    "weights elsewhere": (elsewhere, "it keeps weights in other files"),
    "windows of 0": (windows(0), "its attribute kernel_shape is 0"),
    "windows below 0": (windows(-3), "its attribute kernel_shape is -3"),
    "windows of 2^31": (windows(2**31 - 1), "its attribute kernel_shape is 2147483647"),
    "an input of 2^40": (sides_of_input(2**40), "expected"),
    "an input of 2^15": (sides_of_input(2**15), "expected"),
    "a circle": (a_circle, "has an input that nothing makes before it"),
    "one name for all": (one_name, "has an input that nothing makes before it"),
    "unknown operations": (unknown_operations, "its operation Nope is none that face networks use"),
    "no outputs": (no_outputs, "0 outputs"),
    "no inputs": (no_inputs, "an input that nothing makes"),
}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused(kind, what):
    change, message = HOSTILE[what]
    model = onnx.load_from_string(MADE[kind])
    change(model.graph)
    with pytest.raises(ValueError, match=message):
        use(kind, model.SerializeToString())


@pytest.mark.parametrize("kind", MADE)
@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_files_that_are_cut_short(kind, share):
    content = MADE[kind]
    with pytest.raises(ValueError, match=kind):
        use(kind, content[: int(share * len(content))])


@pytest.mark.parametrize("kind", MADE)
@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes(kind, content):
    with pytest.raises(ValueError, match=kind):
        use(kind, content)


def test_zip_files_that_would_fill_the_memory(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("../../scrfd_10g_bnkps.onnx", bytes(1 << 20))
    monkeypatch.setattr(files, "_MAX_FILE", 1 << 19)
    with pytest.raises(FileNotFoundError, match=r"scrfd_10g_bnkps\.onnx: it has 1048576 bytes"):
        find_face_files(tmp_path / "bomb.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bomb.zip"]
