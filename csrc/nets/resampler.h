// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The perceiver of "plus" adapters: a few latent tokens gather what a long row of features says.
// Each of its layers, with heads of 64 values and softmax over the features and the latents:
//   a = LayerNorm norm2(latents),  c = concat(LayerNorm norm1(features), a)
//   latents += to_out(softmax((to_q a) (to_k c)^T / sqrt(64)) (to_v c))
//   latents += W3 gelu(W1 LayerNorm(latents))
// (Jaegle et al. 2021, arXiv 2103.03206; the form of Flamingo, arXiv 2204.14198.)

#pragma once

#include <string>
#include <vector>

#include "nets/layers.h"

namespace attnpatch::nets {

class PerceiverLayer {
 public:
  // Weights `NAME.0.{norm1,norm2,to_q,to_kv,to_out}` and `NAME.1.{0,1,3}`.
  PerceiverLayer(const Weights& weights, const std::string& name);
  Tensor operator()(const Tensor& features, const Tensor& latents) const;

 private:
  Tensor attend(const Tensor& features, const Tensor& latents) const;
  Tensor split_heads(const Tensor& x) const;

  LayerNorm norm1_, norm2_;
  Linear to_q_, to_kv_, to_out_;
  LayerNorm ff_norm_;
  Linear ff_up_, ff_down_;
};

// proj_in on the features, the layers, proj_out and norm_out on the latents.
class Perceiver {
 public:
  Perceiver(const Weights& weights, const std::string& prefix);
  // (B, T, dim) and (B, L, E) -> (B, T, C).
  Tensor operator()(const Tensor& latents, const Tensor& features) const;
  const Tensor& weight() const { return proj_in_.weight(); }

 private:
  Linear proj_in_;
  std::vector<PerceiverLayer> layers_;
  Linear proj_out_;
  LayerNorm norm_out_;
};

// A perceiver that starts from learned latents: (B, L, E) -> (B, queries, C).
class Resampler {
 public:
  explicit Resampler(const Weights& weights);
  Tensor operator()(const Tensor& features) const;

 private:
  Tensor latents_;
  Perceiver perceiver_;
};

}  // namespace attnpatch::nets
