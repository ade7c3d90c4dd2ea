// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What every CUDA kernel of an attention is given.

#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/attention_params.h"
#include "kernels/cuda/limits.h"

namespace attnpatch::kernels::device {

struct AttentionArguments {
  int64_t batch, heads, queries, keys, head_size;
  float scale;  // of the scores to base 2
  AttentionView q, k, v, out;
  bool vectorized;  // channels lie side by side, rows start at multiples of 16 bytes
};

// Whether a kernel can copy rows by pieces of 16 bytes.
inline bool is_vectorized(const AttentionParams& params) {
  return params.head_size % 8 == 0 && rows_are_aligned(params.q) && rows_are_aligned(params.k) &&
         rows_are_aligned(params.v) && rows_are_aligned(params.out);
}

// Throws where `kernel` cannot take such heads. In float32 torch's own attention is faster than one
// without tensor cores. Each head of q has one of k and v: finding the one that it shares with
// others takes registers that the kernels do not have.
inline void fill(AttentionArguments& a, const AttentionParams& params, const char* kernel) {
  if (params.dtype == Dtype::kFloat32) {
    throw std::invalid_argument(std::string(kernel) +
                                " on CUDA: got float32, expected float16 or bfloat16");
  }
  if (params.head_size > kMostSize) {
    throw std::invalid_argument(std::string(kernel) + " on CUDA: got head size " +
                                std::to_string(params.head_size) + ", expected at most " +
                                std::to_string(kMostSize));
  }
  if (params.kv_heads != params.heads) {
    throw std::invalid_argument(std::string(kernel) + " on CUDA: got " +
                                std::to_string(params.kv_heads) + " heads of keys, expected " +
                                std::to_string(params.heads) + ", as of queries");
  }
  a.batch = params.batch;
  a.heads = params.heads;
  a.queries = params.queries;
  a.keys = params.keys;
  a.head_size = params.head_size;
  a.scale = params.scale * kLog2E;
  a.q = params.q;
  a.k = params.k;
  a.v = params.v;
  a.out = params.out;
  a.vectorized = is_vectorized(params);
}

}  // namespace attnpatch::kernels::device
