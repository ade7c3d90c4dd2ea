// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the CUDA kernels of tile_attention are given.

#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/cuda/limits.h"
#include "kernels/cuda/tiles.h"
#include "kernels/tile_attention.h"

namespace attnpatch::device {

struct TileAttentionArguments {
  int64_t batch, heads, head_size;
  float scale;  // of the logits to base 2
  Tiles tiles;
  bool pooled;  // own keys lie tile after tile; else on the grid
  Stride stride;
  int shared_tokens;
  AttentionView q, k, v, shared_k, shared_v, out;
  int blocks_per_tile;  // of threads
  bool vectorized;
};

inline TileAttentionArguments arguments_of(const TileAttentionParams& params) {
  if (params.head_size > kMostSize) {
    throw std::invalid_argument("tile_attention on CUDA: got head size " +
                                std::to_string(params.head_size) + ", expected at most " +
                                std::to_string(kMostSize));
  }
  TileAttentionArguments a{};
  a.batch = params.batch;
  a.heads = params.heads;
  a.head_size = params.head_size;
  a.scale = params.scale * kLog2E;
  a.tiles = tiles_of(params.tiling);
  a.pooled = !params.starts.empty();
  a.stride = stride_of(params.stride);
  a.shared_tokens = static_cast<int>(params.shared_tokens);
  a.q = params.q;
  a.k = params.k;
  a.v = params.v;
  a.shared_k = params.shared_k;
  a.shared_v = params.shared_v;
  a.out = params.out;
  const int queries = params.dtype == Dtype::kFloat32 ? kAnyQueries : kTileQueries;
  const Tiling& t = params.tiling;
  const int64_t most = std::min(t.tile_height, t.height) * std::min(t.tile_width, t.width);
  a.blocks_per_tile = static_cast<int>((most + queries - 1) / queries);
  a.vectorized = params.dtype != Dtype::kFloat32 && params.head_size % 8 == 0;
  for (const AttentionView& view : {a.q, a.k, a.v, a.shared_k, a.shared_v, a.out}) {
    a.vectorized = a.vectorized && rows_are_aligned(view);
  }
  return a;
}

}  // namespace attnpatch::device
