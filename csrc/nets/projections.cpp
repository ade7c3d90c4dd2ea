// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "nets/projections.h"

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>

#include "ops/torch_calls.h"

namespace attnpatch::nets {
namespace {

Tensor to_tokens(const Tensor& x, int64_t context) {
  return torch::stable::reshape(x, {x.size(0), x.size(-1) / context, context});
}

}  // namespace

LinearProjection::LinearProjection(const Weights& weights)
    : proj_(weights, "proj"), norm_(weights, "norm") {}

Tensor LinearProjection::operator()(const Tensor& embeds) const {
  const Tensor x = proj_(cast(embeds, compute_type(proj_.weight())));
  return cast(norm_(to_tokens(x, norm_.size())), proj_.weight().scalar_type());
}

MlpProjection::MlpProjection(const Weights& weights)
    : per_token_(weights.contains("proj.3.weight")),
      first_(weights, "proj.0"),
      second_(weights, "proj.2"),
      norm_(weights, per_token_ ? "proj.3" : "norm") {}

Tensor MlpProjection::operator()(const Tensor& embeds) const {
  const Tensor x = second_(ops::gelu(first_(cast(embeds, compute_type(first_.weight())))));
  const Tensor tokens = per_token_ ? x : to_tokens(x, norm_.size());
  return cast(norm_(tokens), first_.weight().scalar_type());
}

FaceIdPlusProjection::FaceIdPlusProjection(const Weights& weights)
    : mlp_(weights), perceiver_(weights, "perceiver_resampler.") {}

Tensor FaceIdPlusProjection::operator()(const Tensor& id_embeds, const Tensor& hidden_states,
                                        std::optional<double> shortcut_scale) const {
  const Tensor x = mlp_(id_embeds);
  Tensor out = perceiver_(x, hidden_states);
  if (shortcut_scale) out = torch::stable::subtract(x, out, -*shortcut_scale);
  return out;
}

}  // namespace attnpatch::nets
