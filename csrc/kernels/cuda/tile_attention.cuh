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
  int64_t own_start;  // of pooled keys
  int own_count;
};

ATTNPATCH_DEVICE TileWork find_work(const TileAttentionArguments& p) {
  const int tile = blockIdx.x / p.blocks_per_tile;
  const Box box = box_of(p.tiles, tile);
  if (!p.pooled) return {box, 0, box.height * box.width};
  return {box, Pooled{p.tiles, p.stride}.before(tile), pooled_in(p.stride, box.height, box.width)};
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
  if (p.pooled) {
    keys.own = {rows_of<T>(p.k, b, h), rows_of<T>(p.v, b, h), work.own_count};
    keys.own.k.data += work.own_start * p.k.token_stride;
    keys.own.v.data += work.own_start * p.v.token_stride;
  } else {
    keys.own = {rows_of_box<T>(p.k, b, h, work.box, p.tiles.width),
                rows_of_box<T>(p.v, b, h, work.box, p.tiles.width), work.own_count};
  }
  keys.shared = {rows_of<T>(p.shared_k, b, h), rows_of<T>(p.shared_v, b, h), p.shared_tokens};
  return keys;
}

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) tile_attention_half(TileAttentionArguments p) {
  using Core = Flash<T, kSize>;
  using Math = typename Core::Math;
  const int64_t b = blockIdx.z, h = blockIdx.y;
  const TileWork work = find_work(p);
  const int queries = work.box.height * work.box.width;
  const int begin = static_cast<int>(blockIdx.x % p.blocks_per_tile) * kTileQueries;
  if (begin >= queries) return;  // a small tile at a border; the same for the whole block

  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int size = static_cast<int>(p.head_size);
  T* shared = reinterpret_cast<T*>(shared_memory());
  T* stage = shared + (4 * Core::kKeys + warp * 16) * Core::kStride;
  const int first = begin + warp * 16, count = max(0, min(16, queries - first));
  const Team team{lane, kWarpSize};
  load_rows<kSize>(stage, rows_of_box<T>(p.q, b, h, work.box, p.tiles.width), first, count, 16,
                   size, p.vectorized, team);
  wait_for_copies();
  sync_warp();
  typename Math::Queries q;
  Math::load_queries(q, stage, lane);
  const KeyParts<T> keys = keys_of<T>(p, work, b, h);
  typename Core::Result r = Core{keys, shared, size, p.vectorized}.attend(q, p.scale, lane);
  Math::multiply(r.out, {1.0f / r.sum.low, 1.0f / r.sum.high});
  sync_warp();
  Math::store(r.out, stage, lane);
  sync_warp();
  store_rows<kSize>(rows_of_box<T>(p.out, b, h, work.box, p.tiles.width), stage, first, count, size,
                    p.vectorized, team);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) tile_attention_any(TileAttentionArguments p) {
  const int64_t b = blockIdx.z, h = blockIdx.y;
  const TileWork work = find_work(p);
  const int queries = work.box.height * work.box.width;
  const int begin = static_cast<int>(blockIdx.x % p.blocks_per_tile) * kAnyQueries;
  if (begin >= queries) return;

  const int size = static_cast<int>(p.head_size), part = threadIdx.x % 4;
  const int query = begin + threadIdx.x / 4;
  const bool inside = query < queries;
  const Rows<T> q_rows = rows_of_box<T>(p.q, b, h, work.box, p.tiles.width);
  AnyQuery online = {};
  online.load(q_rows.row(inside ? query : 0), p.q.channel_stride, p.scale, size, part);
  const KeyParts<T> keys = keys_of<T>(p, work, b, h);
  auto* shared = reinterpret_cast<float*>(shared_memory());
  online.attend(keys.own, 1.0f, shared, size, part);
  online.attend(keys.shared, 1.0f, shared, size, part);
  if (!inside) return;
  T* out = const_cast<T*>(rows_of_box<T>(p.out, b, h, work.box, p.tiles.width).row(query));
  Quarter::each(size, part, [&](int i, int channel) {
    out[channel * p.out.channel_stride] = from_float<T>(online.sums.c[i] / online.sum);
  });
}

}  // namespace attnpatch::kernels::device
