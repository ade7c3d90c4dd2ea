// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the CUDA kernel of pool_tokens is given.

#pragma once

#include <stdexcept>
#include <string>

#include "kernels/cuda/tiles.h"
#include "kernels/pool_tokens.h"

namespace attnpatch::device {

constexpr int kMostBlends = 4;

struct PoolTokensArguments {
  int64_t batch, channels, pooled_tokens;
  const void* x;
  int64_t batch_stride, token_stride, channel_stride;
  Tiles tiles;
  Starts starts;
  bool along_tokens;
  int down, across;  // strides; along tokens: `across` alone counts, of the window as well
  int window_down, window_across;
  bool largest;
  int blend_count;
  float blends[kMostBlends];
  void* out[kMostBlends];
};

inline PoolTokensArguments arguments_of(const PoolTokensParams& params) {
  if (params.blends.size() > kMostBlends) {
    throw std::invalid_argument("pool_tokens on CUDA: got " + std::to_string(params.blends.size()) +
                                " blends, expected at most " + std::to_string(kMostBlends));
  }
  PoolTokensArguments a{};
  a.batch = params.batch;
  a.channels = params.channels;
  a.x = params.x;
  a.batch_stride = params.batch_stride;
  a.token_stride = params.token_stride;
  a.channel_stride = params.channel_stride;
  a.tiles = tiles_of(params.tiling);
  const std::vector<int64_t> starts = pooled_starts(params.tiling, params.stride);
  a.starts = starts_of("pool_tokens", starts);
  a.pooled_tokens = starts.back();
  a.along_tokens = params.stride.along_tokens;
  a.down = static_cast<int>(params.stride.down);
  a.across = static_cast<int>(params.stride.across);
  a.window_down = static_cast<int>(params.window_down);
  a.window_across = static_cast<int>(params.window_across);
  a.largest = params.largest;
  a.blend_count = static_cast<int>(params.blends.size());
  for (int i = 0; i < a.blend_count; ++i) {
    a.blends[i] = params.blends[i];
    a.out[i] = params.out[i];
  }
  return a;
}

}  // namespace attnpatch::device
