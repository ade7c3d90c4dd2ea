// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What OpenCV takes on trust in parts of an ONNX graph. Each throws std::invalid_argument.

#pragma once

#include "vision/faces/onnx_graph.h"
#include "vision/faces/protobuf.h"

namespace attnpatch::vision::faces::onnx {

// A tensor that the file holds: a type that OpenCV reads, and as many values as its sizes say.
Tensor check_tensor(protobuf::Bytes tensor);

// An operation, with attributes in a sane range.
Node read_node(protobuf::Bytes node);

}  // namespace attnpatch::vision::faces::onnx
