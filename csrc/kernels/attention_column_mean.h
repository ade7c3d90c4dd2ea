// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention, and the column means of its map, which is never stored:
//
//   p[b,h,n,m] = softmax over m of s q[b,h,n]·k[b,g,m]
//   out[b,h,n] = sum over m of p[b,h,n,m] v[b,g,m]
//   column_mean[r,m] = sum over n of the mean over h of p[rows_r,h,n,m]
//
// with g the head of k and v that serves h.
//
// Without keys out is zero; without queries column_mean is. Working memory: keys and values of one
// head and a few queries' rows of the map for each thread, and at most about 256 + heads rows of
// `keys` floats for each recorded row. The result does not depend on the number of threads.

#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention_params.h"

namespace attnpatch::kernels {

struct AttentionColumnMeanParams : AttentionParams {
  const int64_t* rows = nullptr;  // (recorded), each in [0, batch)
  int64_t recorded = 0;
  float* column_mean = nullptr;  // (recorded, keys), contiguous; written
};

void attention_column_mean_cpu(const AttentionColumnMeanParams& params);

// The same where all data but `rows` lies on the current CUDA device, for at least one head, query
// and key; `stream` is a cudaStream_t, `scratch` so many bytes on the device. Returns before the
// work is done. Throws where a launch fails, for a head size over 160, float32 or grouped heads.
size_t attention_column_mean_cuda_scratch(const AttentionColumnMeanParams& params);
void attention_column_mean_cuda(const AttentionColumnMeanParams& params, void* scratch,
                                void* stream);

}  // namespace attnpatch::kernels
