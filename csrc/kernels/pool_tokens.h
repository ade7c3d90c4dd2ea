// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Fewer tokens of a grid, or of each of its tiles: for every stride-th token i and each blend,
//
//   out[blend][b,i] = x[b,i] + blend (pool over the window that begins at i of x[b] - x[b,i])
//
// pool being the mean or the largest of the window's tokens that lie in the tile.

#pragma once

#include <cstdint>
#include <vector>

#include "kernels/parallel.h"
#include "kernels/tiling.h"
#include "kernels/views.h"

namespace attnpatch::kernels {

struct PoolTokensParams : Threads {
  Dtype dtype = Dtype::kFloat32;  // of x and of the results
  int64_t batch = 0, channels = 0;

  // x (batch, tokens of the grid, channels), strides in elements.
  const void* x = nullptr;
  int64_t batch_stride = 0, token_stride = 0, channel_stride = 1;

  Tiling tiling;
  PoolStride stride;
  int64_t window_down = 1, window_across = 1;  // along tokens: `window_across` alone counts
  bool largest = false;                        // else the mean

  // Contiguous (batch, pooled tokens tile after tile, channels) each, written.
  std::vector<float> blends;
  std::vector<void*> out;
};

void pool_tokens_cpu(const PoolTokensParams& params);

// The same where all data lies on the current CUDA device; `stream` is a cudaStream_t. Returns
// before the work is done. Throws where a launch fails.
void pool_tokens_cuda(const PoolTokensParams& params, void* stream);

}  // namespace attnpatch::kernels
