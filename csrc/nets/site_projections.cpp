// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "nets/site_projections.h"

#include <torch/csrc/stable/ops.h>

#include <optional>
#include <utility>
#include <vector>

#include "ops/torch_calls.h"

namespace attnpatch::nets {

SiteProjections::SiteProjections(std::vector<std::pair<Tensor, Tensor>> weights)
    : weights_(std::move(weights)) {
  STD_TORCH_CHECK(!weights_.empty(), "weights: an adapter needs at least one site, given none");
}

std::vector<std::pair<Tensor, Tensor>> SiteProjections::operator()(const Tensor& tokens) const {
  const auto type = compute_type(weights_.front().first);
  const Tensor x = cast(tokens, type);
  const auto project = [&](const Tensor& weight) {
    return cast(ops::linear(x, cast(weight, type), std::nullopt), weight.scalar_type());
  };
  std::vector<std::pair<Tensor, Tensor>> result;
  result.reserve(weights_.size());
  for (const auto& [key, value] : weights_) result.emplace_back(project(key), project(value));
  return result;
}

}  // namespace attnpatch::nets
