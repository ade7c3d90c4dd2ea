// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// From the features of a picture to tokens (B, tokens, context). All sizes follow from the weights;
// inputs may have any dtype, outputs have the weights' one.

#pragma once

#include <optional>

#include "nets/layers.h"
#include "nets/resampler.h"

namespace attnpatch::nets {

// (B, E) -> Linear `proj` -> reshape to (B, T, C) -> LayerNorm `norm`.
class LinearProjection {
 public:
  explicit LinearProjection(const Weights& weights);
  Tensor operator()(const Tensor& embeds) const;

 private:
  Linear proj_;
  LayerNorm norm_;
};

// Linear `proj.0`, GELU, Linear `proj.2`; then either LayerNorm `proj.3`, one token for each token
// of the input: (B, L, E) -> (B, L, C); or reshape and LayerNorm `norm`: (B, E) -> (B, T, C).
class MlpProjection {
 public:
  explicit MlpProjection(const Weights& weights);
  Tensor operator()(const Tensor& embeds) const;

 private:
  bool per_token_;
  Linear first_;
  Linear second_;
  LayerNorm norm_;
};

// Tokens x of a face embedding (B, E) through the MLP look at the hidden states (B, L, E') through
// the perceiver `perceiver_resampler.*`: out, or with a shortcut x + scale out.
class FaceIdPlusProjection {
 public:
  explicit FaceIdPlusProjection(const Weights& weights);
  Tensor operator()(const Tensor& id_embeds, const Tensor& hidden_states,
                    std::optional<double> shortcut_scale) const;

 private:
  MlpProjection mlp_;
  Perceiver perceiver_;
};

}  // namespace attnpatch::nets
