// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the adapters' networks are built from: named weights, and the two layers that hold some.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>

namespace attnpatch::nets {

using torch::stable::Tensor;

// The tensors of a checkpoint by name.
using Weights = std::unordered_map<std::string, Tensor>;

// The named tensor; an error if it is missing.
Tensor take(const Weights& weights, const std::string& name);

// The dtype to compute in: that of the weights, but fp32 for fp16 and bf16 on the CPU, where
// torch's own half-precision products can be a hundred times slower.
torch::headeronly::ScalarType compute_type(const Tensor& weight);

// `tensor` in the dtype `type`; the same tensor if it already is.
Tensor cast(const Tensor& tensor, torch::headeronly::ScalarType type);

// x W^T + b, in the dtype of x. Weights `NAME.weight` (rows, columns) and, if there, `NAME.bias`.
class Linear {
 public:
  Linear(const Weights& weights, const std::string& name);
  Tensor operator()(const Tensor& x) const;
  int64_t rows() const { return weight_.size(0); }
  int64_t columns() const { return weight_.size(1); }
  const Tensor& weight() const { return weight_; }

 private:
  Tensor weight_;
  std::optional<Tensor> bias_;
};

// Over the last dimension, with weight and bias, epsilon 1e-5, in the dtype of x.
class LayerNorm {
 public:
  LayerNorm(const Weights& weights, const std::string& name);
  Tensor operator()(const Tensor& x) const;
  int64_t size() const { return weight_.size(0); }

 private:
  Tensor weight_;
  Tensor bias_;
};

}  // namespace attnpatch::nets
