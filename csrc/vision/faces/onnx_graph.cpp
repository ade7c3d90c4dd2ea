// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/onnx_graph.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace attnpatch::vision::faces::onnx {
namespace {

constexpr size_t kAny = std::numeric_limits<size_t>::max();
constexpr int64_t kMaxNumber = 1 << 24, kMaxAxis = 6, kMaxStep = 128;

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

void GraphCheck::add_weight(const std::string& name, const Tensor& tensor) {
  define(name);
  constant_.insert(name);
  weights_[name] = tensor;
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
  check_numbers(node);
  for (const std::string& output : node.outputs) {
    define(output);
    if (all_constant) constant_.insert(output);
  }
  if (node.operation == "Constant") weights_[node.outputs[0]] = node.value;
  if (node.operation == "Identity") {
    const auto known = weights_.find(node.inputs[0]);
    if (known != weights_.end()) weights_[node.outputs[0]] = Tensor(known->second);
  }
}

const Tensor* GraphCheck::weight(const Node& node, size_t input) const {
  if (input >= node.inputs.size()) return nullptr;
  const auto found = weights_.find(node.inputs[input]);
  return found == weights_.end() ? nullptr : &found->second;
}

void GraphCheck::check_weights(const Node& node) const {
  const auto dims = [&](size_t input) -> const std::vector<int64_t>* {
    const Tensor* found = weight(node, input);
    return found == nullptr ? nullptr : &found->dims;
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

// Whole numbers that an operation gets as inputs; some older and some newer forms have them as
// attributes.
void GraphCheck::check_numbers(const Node& node) const {
  const bool slices = node.operation == "Slice";
  for (size_t i = 1; i < node.inputs.size(); ++i) {
    const Tensor* tensor = weight(node, i);
    const bool is_axes = slices ? i == 3 : node.operation.ends_with("squeeze") && i == 1;
    const bool is_steps = slices && i == 4;
    if ((is_axes || is_steps) && !node.inputs[i].empty() && tensor == nullptr) {
      refuse(node, "has axes or steps that are not constant");
    }
    int64_t low = -kMaxNumber, high = kMaxNumber;
    if (is_axes) low = -kMaxAxis, high = kMaxAxis;
    if (is_steps) low = 1, high = kMaxStep;
    if (tensor == nullptr || (slices && i == 2)) continue;  // the end may be "as far as it goes"
    for (const int64_t number : tensor->numbers) {
      if (number < low || number > high) refuse(node, "is given " + std::to_string(number));
    }
  }
}

void GraphCheck::check_output(const std::string& name) const {
  if (!known_.contains(name) || constant_.contains(name)) {
    throw std::invalid_argument("it has an output that no picture makes");
  }
}

}  // namespace attnpatch::vision::faces::onnx
