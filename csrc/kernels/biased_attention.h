// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention with a bias of low rank on its scores:
//
//   out[b,h,n] = softmax(s q·k + sum over r of u[n,r] w[m,r]) v     with 0 · (±inf) = 0
//
// A product of minus infinity takes a key away from a query; one of plus infinity, or a query that
// all keys have left, gives NaNs.

#pragma once

#include <cstdint>

#include "kernels/attention_params.h"

namespace attnpatch::kernels {

// Factors (batch, tokens, terms): where they start, and their strides.
struct BiasView {
  const float* data = nullptr;
  int64_t batch_stride = 0;  // 0: one row serves all of the batch
  int64_t token_stride = 0;
  int64_t term_stride = 1;
};

struct BiasedAttentionParams : AttentionParams {
  int64_t terms = 0;
  BiasView query_bias, key_bias;  // u and w
};

void biased_attention_cpu(const BiasedAttentionParams& params);

// The same where all data lies on the current CUDA device; `stream` is a cudaStream_t. Returns
// before the work is done. Throws where a launch fails, for a head size over 160, float32 or
// grouped heads.
void biased_attention_cuda(const BiasedAttentionParams& params, void* stream);

}  // namespace attnpatch::kernels
