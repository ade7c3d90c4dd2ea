// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "nets/layers.h"

#include <torch/csrc/stable/ops.h>

#include <optional>
#include <string>

#include "ops/torch_calls.h"

namespace attnpatch::nets {
namespace {

using torch::headeronly::ScalarType;

constexpr double kEpsilon = 1e-5;

std::optional<Tensor> take_if_there(const Weights& weights, const std::string& name) {
  const auto found = weights.find(name);
  if (found == weights.end()) return std::nullopt;
  return found->second;
}

}  // namespace

Tensor take(const Weights& weights, const std::string& name) {
  const auto found = weights.find(name);
  STD_TORCH_CHECK(found != weights.end(), "weights: the tensor ", name, " is missing");
  return found->second;
}

ScalarType compute_type(const Tensor& weight) {
  const ScalarType type = weight.scalar_type();
  const bool half = type == ScalarType::Half || type == ScalarType::BFloat16;
  return half && weight.is_cpu() ? ScalarType::Float : type;
}

Tensor cast(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

Linear::Linear(const Weights& weights, const std::string& name)
    : weight_(take(weights, name + ".weight")), bias_(take_if_there(weights, name + ".bias")) {
  STD_TORCH_CHECK(weight_.dim() == 2, name, ".weight: expected two dimensions, given ",
                  weight_.dim());
}

Tensor Linear::operator()(const Tensor& x) const {
  const ScalarType type = x.scalar_type();
  std::optional<Tensor> bias;
  if (bias_) bias = cast(*bias_, type);
  return ops::linear(x, cast(weight_, type), bias);
}

LayerNorm::LayerNorm(const Weights& weights, const std::string& name)
    : weight_(take(weights, name + ".weight")), bias_(take(weights, name + ".bias")) {
  STD_TORCH_CHECK(weight_.dim() == 1, name, ".weight: expected one dimension, given ",
                  weight_.dim());
}

Tensor LayerNorm::operator()(const Tensor& x) const {
  const ScalarType type = x.scalar_type();
  return ops::layer_norm(x, cast(weight_, type), cast(bias_, type), kEpsilon);
}

}  // namespace attnpatch::nets
