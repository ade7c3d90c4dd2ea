// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the CUDA kernels of attention_column_mean are given.

#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/attention_column_mean.h"
#include "kernels/cuda/limits.h"

namespace attnpatch::device {

constexpr int kMostRecorded = 64;  // rows of the batch, and recorded ones, in one launch

struct ColumnMeanArguments {
  int64_t batch, heads, queries, keys, head_size;
  float scale;  // of the logits to base 2
  AttentionView q, k, v, out;
  float* logs;         // (recorded, heads, queries)
  float* sums;         // (recorded, heads, keys)
  float* column_mean;  // (recorded, keys)
  int recorded;
  int64_t rows[kMostRecorded];   // the row of the batch of each recorded one
  int record_of[kMostRecorded];  // for each row of the batch a recorded one, or -1
  bool vectorized;
};

// Bytes of scratch memory.
inline size_t column_mean_scratch(const AttentionColumnMeanParams& params) {
  return sizeof(float) *
         static_cast<size_t>(params.recorded * params.heads * (params.queries + params.keys));
}

inline ColumnMeanArguments arguments_of(const AttentionColumnMeanParams& params, void* scratch) {
  if (params.batch > kMostRecorded || params.recorded > kMostRecorded ||
      params.head_size > kMostSize) {
    throw std::invalid_argument(
        "attention_column_mean on CUDA: got batch " + std::to_string(params.batch) + ", " +
        std::to_string(params.recorded) + " recorded rows and head size " +
        std::to_string(params.head_size) + ", expected at most " + std::to_string(kMostRecorded) +
        ", as many and " + std::to_string(kMostSize));
  }
  ColumnMeanArguments a{};
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
  a.logs = static_cast<float*>(scratch);
  a.sums = a.logs + params.recorded * params.heads * params.queries;
  a.column_mean = params.column_mean;
  a.recorded = static_cast<int>(params.recorded);
  for (int& record : a.record_of) record = -1;
  for (int i = 0; i < a.recorded; ++i) {
    a.rows[i] = params.rows[i];
    a.record_of[params.rows[i]] = i;
  }
  a.vectorized = params.kind != ScalarKind::kFloat32 && params.head_size % 8 == 0 &&
                 rows_are_aligned(a.q) && rows_are_aligned(a.k) && rows_are_aligned(a.v) &&
                 rows_are_aligned(a.out);
  return a;
}

}  // namespace attnpatch::device
