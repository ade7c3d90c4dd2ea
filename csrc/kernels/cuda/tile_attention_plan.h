// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the CUDA kernels of tile_attention are given.

#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/attention_arguments.h"
#include "kernels/cuda/limits.h"
#include "kernels/cuda/tiles.h"
#include "kernels/tile_attention.h"

namespace attnpatch::kernels::device {

struct TileAttentionArguments : AttentionArguments {
  Tiles tiles;
  bool is_pooled;  // own keys lie tile after tile, `pooled` of each; else on the grid
  Pooled pooled;
  int shared_tokens;
  AttentionView shared_k, shared_v;
  int blocks_per_tile;  // of threads
};

inline TileAttentionArguments arguments_of(const TileAttentionParams& params) {
  TileAttentionArguments a{};
  fill(a, params, "tile_attention");
  a.tiles = tiles_of(params.tiling);
  a.is_pooled = !params.starts.empty();
  if (a.is_pooled) a.pooled = pooled_of(params.tiling, params.stride);
  a.shared_tokens = static_cast<int>(params.shared_tokens);
  a.shared_k = params.shared_k;
  a.shared_v = params.shared_v;
  const int queries = flash_queries(params.head_size);
  const Tiling& t = params.tiling;
  const int64_t most = std::min(t.tile_height, t.height) * std::min(t.tile_width, t.width);
  a.blocks_per_tile = static_cast<int>((most + queries - 1) / queries);
  a.vectorized = a.vectorized && rows_are_aligned(a.shared_k) && rows_are_aligned(a.shared_v);
  return a;
}

}  // namespace attnpatch::kernels::device
