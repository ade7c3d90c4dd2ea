// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the CUDA kernel of pool_tokens is given.

#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/cuda/tiles.h"
#include "kernels/pool_tokens.h"

namespace attnpatch::kernels::device {

constexpr int kMostBlends = 4;  // in one launch
constexpr int64_t kMostPieces = (int64_t{1} << 31) - 1;

struct PoolTokensArguments {
  int64_t batch, channels, pooled_tokens;
  const void* x;
  int64_t batch_stride, token_stride, channel_stride;
  Tiles tiles;
  Stride stride;
  Pooled pooled;
  int window_down, window_across;  // along tokens: `window_across` alone counts
  bool largest;
  int blend_count;
  float blends[kMostBlends];
  void* out[kMostBlends];
  bool vectorized;  // pieces of 16 bytes
};

// Threads for one row of the batch.
inline int64_t pieces_of(const PoolTokensArguments& a, int values_in_piece) {
  return a.pooled_tokens * (a.channels / values_in_piece);
}

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
  a.pooled = pooled_of(params.tiling, params.stride);
  a.window_down = static_cast<int>(params.window_down);
  a.window_across = static_cast<int>(params.window_across);
  a.largest = params.largest;
  const int values = params.dtype == Dtype::kFloat32 ? 4 : 8;  // in 16 bytes
  a.vectorized = a.channel_stride == 1 && a.channels % values == 0 &&
                 a.token_stride % values == 0 && a.batch_stride % values == 0 &&
                 reinterpret_cast<uintptr_t>(a.x) % 16 == 0;
  if (pieces_of(a, a.vectorized ? values : 1) > kMostPieces) {
    throw std::invalid_argument("pool_tokens on CUDA: got " + std::to_string(a.pooled_tokens) +
                                " results of " + std::to_string(a.channels) +
                                " channels, expected " + "at most " + std::to_string(kMostPieces) +
                                " together");
  }
  a.blend_count = static_cast<int>(std::min<size_t>(kMostBlends, params.blends.size() - first));
  for (int i = 0; i < a.blend_count; ++i) {
    a.blends[i] = params.blends[first + i];
    a.out[i] = params.out[first + i];
    a.vectorized = a.vectorized && reinterpret_cast<uintptr_t>(a.out[i]) % 16 == 0;
  }
  return a;
}

}  // namespace attnpatch::kernels::device
