// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the CUDA kernel of biased_attention is given.

#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/biased_attention.h"
#include "kernels/cuda/attention_arguments.h"

namespace attnpatch::kernels::device {

struct BiasedAttentionArguments : AttentionArguments {
  int terms;
  BiasView query_bias, key_bias;
};

inline BiasedAttentionArguments arguments_of(const BiasedAttentionParams& params) {
  BiasedAttentionArguments a{};
  fill(a, params, "biased_attention");
  a.terms = static_cast<int>(params.terms);
  a.query_bias = params.query_bias;
  a.key_bias = params.key_bias;
  return a;
}

}  // namespace attnpatch::kernels::device
