// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the CUDA kernel of pool_tokens is given.

#pragma once

#include <algorithm>

#include "kernels/cuda/tiles.h"
#include "kernels/pool_tokens.h"

namespace attnpatch::device {

constexpr int kMostBlends = 4;  // in one launch

struct PoolTokensArguments {
  int64_t batch, channels, pooled_tokens;
  const void* x;
  int64_t batch_stride, token_stride, channel_stride;
  Tiles tiles;
  Stride stride;
  int window_down, window_across;  // along tokens: `window_across` alone counts
  bool largest;
  int blend_count;
  float blends[kMostBlends];
  void* out[kMostBlends];
};

// For the blends from number `first` on, as many as one launch takes.
inline PoolTokensArguments arguments_of(const PoolTokensParams& params, size_t first = 0) {
  PoolTokensArguments a{};
  a.batch = params.batch;
  a.channels = params.channels;
  a.x = params.x;
  a.batch_stride = params.batch_stride;
  a.token_stride = params.token_stride;
  a.channel_stride = params.channel_stride;
  a.tiles = tiles_of(params.tiling);
  a.pooled_tokens = pooled_starts(params.tiling, params.stride).back();
  a.stride = stride_of(params.stride);
  a.window_down = static_cast<int>(params.window_down);
  a.window_across = static_cast<int>(params.window_across);
  a.largest = params.largest;
  a.blend_count = static_cast<int>(std::min<size_t>(kMostBlends, params.blends.size() - first));
  for (int i = 0; i < a.blend_count; ++i) {
    a.blends[i] = params.blends[first + i];
    a.out[i] = params.out[first + i];
  }
  return a;
}

}  // namespace attnpatch::device
