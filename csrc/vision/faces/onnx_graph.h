// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Whether the operations of an ONNX graph fit together: OpenCV looks names and weights up without
// asking whether they are there.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace attnpatch::vision::faces::onnx {

struct Tensor {
  std::vector<int64_t> dims;
  std::vector<int64_t> numbers;  // of a short list of whole numbers
};

struct Node {
  std::string operation;
  std::vector<std::string> inputs, outputs;  // an empty name: left out
  std::vector<int64_t> kernel_shape;
  Tensor value;  // of a Constant
};

// Follows a graph in its order. Every member throws std::invalid_argument where it does not fit.
class GraphCheck {
 public:
  void add_input(const std::string& name);
  void add_weight(const std::string& name, const Tensor& tensor);
  void add_node(const Node& node);
  void check_output(const std::string& name) const;

 private:
  const Tensor* weight(const Node& node, size_t input) const;
  void check_weights(const Node& node) const;
  void check_numbers(const Node& node) const;
  void define(const std::string& name);

  std::set<std::string> known_;
  std::set<std::string> constant_;         // known before any picture is
  std::map<std::string, Tensor> weights_;  // of those the ones that the file holds
};

}  // namespace attnpatch::vision::faces::onnx
