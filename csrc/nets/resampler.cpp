// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "nets/resampler.h"

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <string>
#include <vector>

#include "ops/torch_calls.h"

namespace attnpatch::nets {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kHeadSize = 64;

Tensor add(const Tensor& a, const Tensor& b) { return torch::stable::subtract(a, b, -1.0); }

std::vector<PerceiverLayer> take_layers(const Weights& weights, const std::string& prefix) {
  std::vector<PerceiverLayer> layers;
  while (true) {
    const std::string name = prefix + "layers." + std::to_string(layers.size());
    if (!weights.contains(name + ".0.to_q.weight")) return layers;
    layers.emplace_back(weights, name);
  }
}

}  // namespace

PerceiverLayer::PerceiverLayer(const Weights& weights, const std::string& name)
    : norm1_(weights, name + ".0.norm1"),
      norm2_(weights, name + ".0.norm2"),
      to_q_(weights, name + ".0.to_q"),
      to_kv_(weights, name + ".0.to_kv"),
      to_out_(weights, name + ".0.to_out"),
      ff_norm_(weights, name + ".1.0"),
      ff_up_(weights, name + ".1.1"),
      ff_down_(weights, name + ".1.3") {
  STD_TORCH_CHECK(to_q_.rows() % kHeadSize == 0, name, ".0.to_q.weight: ", to_q_.rows(),
                  " rows are not a multiple of the head size ", kHeadSize);
}

Tensor PerceiverLayer::split_heads(const Tensor& x) const {
  const int64_t heads = to_q_.rows() / kHeadSize;
  return torch::stable::transpose(
      torch::stable::reshape(x, {x.size(0), x.size(1), heads, kHeadSize}), 1, 2);
}

Tensor PerceiverLayer::attend(const Tensor& features, const Tensor& latents) const {
  const Tensor own = norm2_(latents);
  const int64_t inner = to_q_.rows();
  Tensor kv = to_kv_(ops::cat({norm1_(features), own}, 1));
  const Tensor key = torch::stable::narrow(kv, 2, 0, inner);
  const Tensor value = torch::stable::narrow(kv, 2, inner, inner);
  const Tensor out = ops::scaled_dot_product_attention(split_heads(to_q_(own)), split_heads(key),
                                                       split_heads(value));
  return to_out_(torch::stable::reshape(torch::stable::transpose(out, 1, 2),
                                        {latents.size(0), latents.size(1), inner}));
}

Tensor PerceiverLayer::operator()(const Tensor& features, const Tensor& latents) const {
  const Tensor x = add(latents, attend(features, latents));
  return add(x, ff_down_(ops::gelu(ff_up_(ff_norm_(x)))));
}

Perceiver::Perceiver(const Weights& weights, const std::string& prefix)
    : proj_in_(weights, prefix + "proj_in"),
      layers_(take_layers(weights, prefix)),
      proj_out_(weights, prefix + "proj_out"),
      norm_out_(weights, prefix + "norm_out") {}

Tensor Perceiver::operator()(const Tensor& latents, const Tensor& features) const {
  const ScalarType type = compute_type(weight());
  const Tensor context = proj_in_(cast(features, type));
  Tensor x = cast(latents, type);
  for (const PerceiverLayer& layer : layers_) x = layer(context, x);
  return cast(norm_out_(proj_out_(x)), weight().scalar_type());
}

Resampler::Resampler(const Weights& weights)
    : latents_(take(weights, "latents")), perceiver_(weights, "") {}

Tensor Resampler::operator()(const Tensor& features) const {
  const Tensor start =
      ops::expand(latents_, {features.size(0), latents_.size(1), latents_.size(2)});
  return perceiver_(start, features);
}

}  // namespace attnpatch::nets
