// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <utility>
#include <vector>

#include "nets/layers.h"

namespace attnpatch::nets {

// Image tokens to the keys and values of every attention layer that the adapter was trained on:
// k = tokens to_k^T, v = tokens to_v^T, without bias.
class SiteProjections {
 public:
  // One pair of weights (channels, context) a site, in the checkpoint's order.
  explicit SiteProjections(std::vector<std::pair<Tensor, Tensor>> weights);

  // (R, M, context) -> for each site k and v, (R, M, channels) in the weights' dtype.
  std::vector<std::pair<Tensor, Tensor>> operator()(const Tensor& tokens) const;

 private:
  std::vector<std::pair<Tensor, Tensor>> weights_;
};

}  // namespace attnpatch::nets
