// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Device code of tile_attention; ../tile_attention.h has the formula. A block of threads serves
// some queries of one tile. A tile is a view: its rows are found by their place in the rectangle,
// those of queries and output as those of keys; nothing is gathered. The shared keys are a second
// part of the same softmax.

#pragma once

#include "kernels/cuda/flash.cuh"
#include "kernels/cuda/tile_attention_plan.h"
#include "kernels/cuda/tiles.cuh"

namespace attnpatch::kernels::device {

// What one block of threads works on.
struct TileWork {
  Box box;
  PooledTile own;  // from 0 where they are not pooled
};

ATTNPATCH_DEVICE TileWork find_work(const TileAttentionArguments& p) {
  const int tile = blockIdx.x / p.blocks_per_tile;
  const Box box = box_of(p.tiles, tile);
  if (!p.is_pooled) return {box, {0, box.height * box.width}};
  return {box, pooled_tile(p.tiles, p.pooled, tile)};
}

template <typename T>
ATTNPATCH_DEVICE Rows<T> rows_of_box(const AttentionView& view, int64_t b, int64_t h,
                                     const Box& box, int grid_width) {
  Rows<T> rows = rows_of<T>(view, b, h);
  rows.data += (int64_t{box.top} * grid_width + box.left) * rows.token_stride;
  rows.line_stride = grid_width * rows.token_stride;
  rows.columns = box.width;
  return rows;
}

template <typename T>
ATTNPATCH_DEVICE KeyParts<T> keys_of(const TileAttentionArguments& p, const TileWork& work,
                                     int64_t b, int64_t h) {
  KeyParts<T> keys;
  if (p.is_pooled) {
    keys.own = {rows_of<T>(p.k, b, h), rows_of<T>(p.v, b, h), work.own.count};
    keys.own.k.data += work.own.start * p.k.token_stride;
    keys.own.v.data += work.own.start * p.v.token_stride;
  } else {
    keys.own = {rows_of_box<T>(p.k, b, h, work.box, p.tiles.width),
                rows_of_box<T>(p.v, b, h, work.box, p.tiles.width), work.own.count};
  }
  keys.shared = {rows_of<T>(p.shared_k, b, h), rows_of<T>(p.shared_v, b, h), p.shared_tokens};
  return keys;
}

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads, kFlashBlocks<kSize>)
    tile_attention_half(TileAttentionArguments p) {
  using Core = Flash<T, kSize>;
  const int64_t b = blockIdx.z, h = blockIdx.y;
  const TileWork work = find_work(p);
  const int queries = work.box.height * work.box.width;
  const int begin = static_cast<int>(blockIdx.x % p.blocks_per_tile) * Core::kQueries;
  if (begin >= queries) return;  // a small tile at a border; the same for the whole block

  const KeyParts<T> keys = keys_of<T>(p, work, b, h);
  const Core core{keys, reinterpret_cast<T*>(shared_memory()), static_cast<int>(p.head_size),
                  p.vectorized};
  const auto mine = Core::mine(begin, queries);
  auto result = core.attend(rows_of_box<T>(p.q, b, h, work.box, p.tiles.width), mine, p.scale);
  core.store(result, rows_of_box<T>(p.out, b, h, work.box, p.tiles.width), mine);
}

}  // namespace attnpatch::kernels::device
