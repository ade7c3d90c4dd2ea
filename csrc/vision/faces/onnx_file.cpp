// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/onnx_file.h"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "vision/faces/onnx_checks.h"
#include "vision/faces/protobuf.h"

namespace attnpatch::vision::faces {
namespace {

using protobuf::Bytes;
using protobuf::Reader;
using protobuf::Wire;

// Numbers of fields, from onnx.proto.
constexpr uint32_t kModelGraph = 7;
constexpr uint32_t kGraphNode = 1, kGraphInitializer = 5, kGraphInput = 11, kGraphOutput = 12;
constexpr uint32_t kGraphSparse = 15;
constexpr uint32_t kModelFunctions = 25;
constexpr uint32_t kTensorName = 8, kNodeName = 3;
constexpr uint32_t kValueName = 1, kValueType = 2, kTypeTensor = 1, kTensorShape = 2, kShapeDim = 1;
constexpr uint32_t kDimValue = 1;
constexpr int kFirstNodes = 8;

std::string text(Bytes bytes) { return {bytes.begin(), bytes.end()}; }

// The last field of that number, which is the one that counts; empty where there is none.
Bytes find(Bytes message, uint32_t field) {
  Bytes found;
  Reader reader(message);
  while (reader.next()) {
    if (reader.is(field, Wire::kBytes)) found = reader.bytes();
  }
  return found;
}

std::vector<int64_t> read_dims(Bytes value) {
  const Bytes shape = find(find(find(value, kValueType), kTypeTensor), kTensorShape);
  std::vector<int64_t> dims;
  Reader reader(shape);
  while (reader.next()) {
    if (!reader.is(kShapeDim, Wire::kBytes)) continue;
    int64_t size = -1;
    Reader dim(reader.bytes());
    while (dim.next()) {
      if (dim.is(kDimValue, Wire::kVarint)) size = static_cast<int64_t>(dim.number());
    }
    dims.push_back(size > 0 ? size : -1);
  }
  return dims;
}

bool starts_with_any(std::string_view name, std::initializer_list<std::string_view> starts) {
  return std::any_of(starts.begin(), starts.end(),
                     [&](std::string_view start) { return name.starts_with(start); });
}

// The model's one graph. Protocol buffers would merge several.
Bytes find_graph(Bytes file) {
  Bytes graph;
  int graphs = 0;
  Reader reader(file);
  while (reader.next()) {
    if (reader.field() == kModelFunctions) throw std::invalid_argument("it defines functions");
    if (!reader.is(kModelGraph, Wire::kBytes)) continue;
    graph = reader.bytes();
    ++graphs;
  }
  if (graphs != 1 || graph.empty()) throw std::invalid_argument("it is no ONNX file");
  return graph;
}

// `message` with its field put anew by `change`; the rest byte for byte.
template <typename Change>
std::vector<uint8_t> replace(Bytes message, uint32_t field, Change change) {
  std::vector<uint8_t> out;
  out.reserve(message.size() + 64);
  Reader reader(message);
  while (reader.next()) {
    if (reader.is(field, Wire::kBytes)) {
      protobuf::write_bytes(field, change(reader.bytes()), out);
    } else {
      protobuf::write_raw(reader.whole(), out);
    }
  }
  return out;
}

std::vector<uint8_t> make_shape(std::span<const int64_t> dims) {
  std::vector<uint8_t> shape;
  for (const int64_t size : dims) {
    std::vector<uint8_t> dim;
    protobuf::write_number(kDimValue, static_cast<uint64_t>(size), dim);
    protobuf::write_bytes(kShapeDim, dim, shape);
  }
  return shape;
}

}  // namespace

OnnxFile read_onnx(std::span<const uint8_t> file) {
  const Bytes graph = find_graph(file);
  onnx::GraphCheck check;
  std::set<std::string> weights;
  const auto each = [&](uint32_t field, auto visit) {
    Reader reader(graph);
    while (reader.next()) {
      if (reader.is(field, Wire::kBytes)) visit(reader.bytes());
    }
  };
  each(kGraphSparse, [](Bytes) { throw std::invalid_argument("it holds sparse tensors"); });
  each(kGraphInitializer, [&](Bytes tensor) {
    const std::string name = text(find(tensor, kTensorName));
    check.add_weight(name, onnx::check_tensor(tensor));
    weights.insert(name);
  });
  OnnxFile found;
  int inputs = 0, nodes = 0;
  each(kGraphInput, [&](Bytes value) {
    const std::string name = text(find(value, kValueName));
    if (weights.contains(name)) return;  // old files list their weights among the inputs
    check.add_input(name);
    found.input = name;
    found.input_dims = read_dims(value);
    ++inputs;
  });
  bool subtracts = false, multiplies = false;
  each(kGraphNode, [&](Bytes part) {
    check.add_node(onnx::read_node(part));
    const std::string name = nodes++ < kFirstNodes ? text(find(part, kNodeName)) : "";
    subtracts |= starts_with_any(name, {"Sub", "_minus"});
    multiplies |= starts_with_any(name, {"Mul", "_mul"});
  });
  each(kGraphOutput, [&](Bytes value) {
    found.outputs.push_back(text(find(value, kValueName)));
    check.check_output(found.outputs.back());
  });
  if (inputs != 1 || found.outputs.empty() || nodes == 0) {
    throw std::invalid_argument("it has " + std::to_string(inputs) + " inputs, " +
                                std::to_string(found.outputs.size()) + " outputs and " +
                                std::to_string(nodes) + " operations");
  }
  found.prepares_input = subtracts && multiplies;
  return found;
}

std::vector<uint8_t> with_input_dims(std::span<const uint8_t> file, std::span<const int64_t> dims) {
  const OnnxFile known = read_onnx(file);
  const auto put = [&](Bytes) { return make_shape(dims); };
  const auto in_tensor = [&](Bytes tensor) { return replace(tensor, kTensorShape, put); };
  const auto in_type = [&](Bytes type) { return replace(type, kTypeTensor, in_tensor); };
  const auto in_value = [&](Bytes value) {
    if (text(find(value, kValueName)) != known.input)
      return std::vector<uint8_t>(value.begin(), value.end());
    return replace(value, kValueType, in_type);
  };
  return replace(file, kModelGraph,
                 [&](Bytes graph) { return replace(graph, kGraphInput, in_value); });
}

}  // namespace attnpatch::vision::faces
