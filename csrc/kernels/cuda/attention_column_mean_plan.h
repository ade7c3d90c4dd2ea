// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the CUDA kernels of attention_column_mean are given.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/attention_column_mean.h"
#include "kernels/cuda/attention_arguments.h"

namespace attnpatch::kernels::device {

constexpr int kMostRecorded = 64;  // rows in one launch

struct ColumnMeanArguments : AttentionArguments {
  float* logs;         // (batch, heads, queries); none: nothing is recorded
  float* sums;         // (recorded, heads, keys)
  float* column_mean;  // (recorded, keys)
  int recorded;
  int64_t rows[kMostRecorded];  // the row of the batch of each recorded one
};

// Bytes of scratch memory; none where nothing is recorded.
inline size_t column_mean_scratch(const AttentionColumnMeanParams& params) {
  if (params.recorded == 0) return 0;
  return sizeof(float) * static_cast<size_t>(params.heads * (params.batch * params.queries +
                                                             params.recorded * params.keys));
}

// For the recorded rows from number `first` on, as many as one launch takes.
inline ColumnMeanArguments arguments_of(const AttentionColumnMeanParams& params, void* scratch,
                                        int64_t first = 0) {
  ColumnMeanArguments a{};
  fill(a, params, "attention_column_mean");
  if (params.recorded > 0) {
    a.logs = static_cast<float*>(scratch);
    a.sums = a.logs + params.heads * (params.batch * params.queries + first * params.keys);
    a.column_mean = params.column_mean + first * params.keys;
  }
  a.recorded = static_cast<int>(std::min<int64_t>(kMostRecorded, params.recorded - first));
  for (int i = 0; i < a.recorded; ++i) a.rows[i] = params.rows[first + i];
  return a;
}

}  // namespace attnpatch::kernels::device
