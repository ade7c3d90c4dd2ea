// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/onnx_graph.h"

#include <algorithm>
#include <array>
#include <limits>
#include <stdexcept>
#include <string_view>

namespace attnpatch::onnx {
namespace {

constexpr size_t kAny = std::numeric_limits<size_t>::max();

struct Arity {
  std::string_view operation;
  size_t least, most;  // inputs
  size_t weights;      // the first input that must be constant; kAny: none
  size_t outputs = 1;  // at most
};

// Convolutional networks are made of these, whichever tool exported them. In order.
constexpr auto kOperations = std::to_array<Arity>({
    {"Add", 2, 2, kAny},
    {"AveragePool", 1, 1, kAny},
    {"BatchNormalization", 5, 5, 1},
    {"Cast", 1, 1, kAny},
    {"Clip", 1, 3, 1},
    {"Concat", 1, kAny, kAny},
    {"Constant", 0, 0, kAny},
    {"ConstantOfShape", 1, 1, 0},
    {"Conv", 2, 3, 1},
    {"ConvTranspose", 2, 3, 1},
    {"Div", 2, 2, kAny},
    {"Dropout", 1, 3, 1, 2},
    {"Elu", 1, 1, kAny},
    {"Exp", 1, 1, kAny},
    {"Flatten", 1, 1, kAny},
    {"Floor", 1, 1, kAny},
    {"Gather", 2, 2, 1},
    {"Gemm", 2, 3, 1},
    {"GlobalAveragePool", 1, 1, kAny},
    {"Identity", 1, 1, kAny},
    {"InstanceNormalization", 3, 3, 1},
    {"LeakyRelu", 1, 1, kAny},
    {"MatMul", 2, 2, kAny},
    {"MaxPool", 1, 1, kAny},
    {"Mul", 2, 2, kAny},
    {"PRelu", 2, 2, 1},
    {"Pad", 1, 3, 1},
    {"Pow", 2, 2, 1},
    {"ReduceL2", 1, 1, kAny},
    {"ReduceMean", 1, 1, kAny},
    {"Relu", 1, 1, kAny},
    {"Reshape", 2, 2, kAny},
    {"Resize", 2, 4, kAny},
    {"Shape", 1, 1, kAny},
    {"Sigmoid", 1, 1, kAny},
    {"Slice", 1, 5, 1},
    {"Softmax", 1, 1, kAny},
    {"Split", 1, 2, 1, 16},
    {"Sqrt", 1, 1, kAny},
    {"Squeeze", 1, 2, 1},
    {"Sub", 2, 2, kAny},
    {"Tanh", 1, 1, kAny},
    {"Transpose", 1, 1, kAny},
    {"Unsqueeze", 1, 2, 1},
    {"Upsample", 1, 2, kAny},
});

[[noreturn]] void refuse(const Node& node, const std::string& what) {
  throw std::invalid_argument("its operation " + node.operation.substr(0, 40) + " " + what);
}

const Arity& find_arity(const Node& node) {
  const auto* found = std::lower_bound(
      kOperations.begin(), kOperations.end(), node.operation,
      [](const Arity& arity, const std::string& name) { return arity.operation < name; });
  if (found == kOperations.end() || found->operation != node.operation) {
    refuse(node, "is none that face networks use");
  }
  return *found;
}

}  // namespace

void GraphCheck::define(const std::string& name) {
  if (name.empty() || !known_.insert(name).second) {
    throw std::invalid_argument("it defines the name '" + name.substr(0, 40) + "' twice or not");
  }
}

void GraphCheck::add_input(const std::string& name) { define(name); }

void GraphCheck::add_weight(const std::string& name, const std::vector<int64_t>& dims) {
  define(name);
  constant_.insert(name);
  weights_[name] = dims;
}

void GraphCheck::add_node(const Node& node) {
  const Arity& arity = find_arity(node);
  const size_t inputs = node.inputs.size();
  if (inputs < arity.least || inputs > arity.most) {
    refuse(node, "has " + std::to_string(inputs) + " inputs");
  }
  if (node.outputs.empty() || node.outputs.size() > arity.outputs) {
    refuse(node, "has " + std::to_string(node.outputs.size()) + " outputs");
  }
  bool all_constant = true;
  for (size_t i = 0; i < inputs; ++i) {
    const std::string& name = node.inputs[i];
    if (name.empty()) {
      const bool optional = i > 0 && (node.operation == "Resize" || node.operation == "Clip" ||
                                      node.operation == "Pad" || node.operation == "Slice");
      if (!optional) refuse(node, "lacks an input");
      continue;
    }
    if (!known_.contains(name)) refuse(node, "has an input that nothing makes before it");
    const bool constant = constant_.contains(name);
    if (i >= arity.weights && !constant) refuse(node, "has weights that are not constant");
    all_constant = all_constant && constant;
  }
  check_weights(node);
  for (const std::string& output : node.outputs) {
    define(output);
    if (all_constant) constant_.insert(output);
  }
  if (node.operation == "Constant") weights_[node.outputs[0]] = node.value_dims;
  if (node.operation == "Identity") {
    const auto known = weights_.find(node.inputs[0]);
    if (known != weights_.end()) weights_[node.outputs[0]] = std::vector(known->second);
  }
}

void GraphCheck::check_weights(const Node& node) const {
  const auto dims = [&](size_t input) -> const std::vector<int64_t>* {
    if (input >= node.inputs.size()) return nullptr;
    const auto found = weights_.find(node.inputs[input]);
    return found == weights_.end() ? nullptr : &found->second;
  };
  const auto require = [&](bool good) {
    if (!good) refuse(node, "has weights of the wrong sizes");
  };
  const auto* first = dims(1);
  if (node.operation == "Conv" || node.operation == "ConvTranspose") {
    require(first != nullptr && first->size() == 4);
    require(node.kernel_shape.size() == 2 && node.kernel_shape[0] == (*first)[2] &&
            node.kernel_shape[1] == (*first)[3]);
    const int64_t outputs = (*first)[0];
    if (node.operation == "Conv" && node.inputs.size() > 2) {
      require(dims(2) != nullptr && *dims(2) == std::vector<int64_t>{outputs});
    }
  } else if (node.operation == "Gemm") {
    require(first != nullptr && first->size() == 2);
  } else if (node.operation == "BatchNormalization") {
    for (size_t i = 1; i < 5; ++i) {
      require(dims(i) != nullptr && dims(i)->size() == 1 && *dims(i) == *first);
    }
  } else if (node.operation == "InstanceNormalization") {
    require(first != nullptr && first->size() == 1 && dims(2) != nullptr && *dims(2) == *first);
  } else if (node.operation == "PRelu") {
    require(first == nullptr || !first->empty());
  }
}

void GraphCheck::check_output(const std::string& name) const {
  if (!known_.contains(name) || constant_.contains(name)) {
    throw std::invalid_argument("it has an output that no picture makes");
  }
}

}  // namespace attnpatch::onnx
