// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Device code of branch_attention; ../branch_attention.h has the formula.
//
// A block of threads serves tiles of queries of one head. The first softmax, of the text and the
// branches that share it, is kept online, as in flash.cuh. The others add to its result: their
// weights, masks and 1 / sum are folded into their probabilities, so that all have one accumulator
// and the output is written once. Those of more keys than a block holds are gone through twice: for
// maximum and sum, then for values.
//
// Four warps, 16 queries each. Keys and values of all segments stay in shared memory where two
// blocks of threads have room for theirs; else they pass through it, a block of keys loaded while
// the one before is in use. Queries of the next tile are loaded during a tile, where there is room
// for them. Registers a thread at head size 64: 16 for queries, 40 for the scores of 80 keys, 32
// for the accumulator; at 160: 40, 16 of 32 keys, 80. Shared memory: two rows a key and 64 or 128
// for queries, of head size + 8 values; 8 keep matrix loads free of conflicts.

#pragma once

#include "kernels/cuda/branch_attention_plan.h"
#include "kernels/cuda/branch_segments.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/warp_tile.cuh"

namespace attnpatch::kernels::device {

// Two queries of a lane, g and g + 8 of a warp's: what they ask, and what they get.
template <int kSize>
struct BranchQueries {
  WarpQueries<kSize> q[1];
  WarpOutput<kSize> out[1];
  int64_t batch, query;
  int lane;
  float scale;     // above 0
  RowPair m, sum;  // of the softmax that is in work
  bool low, high;  // whether anything of the first softmax counts

  ATTNPATCH_DEVICE void begin_softmax() {
    m = {-INFINITY, -INFINITY};
    sum = {0.0f, 0.0f};
  }
};

// A block of keys, in shared memory.
template <typename T>
struct KeyBlock {
  const Segment& segment;
  const T* keys;
  const T* values;
  int count;
  bool first, again, comes_again;  // of the first softmax; the second time; there is a second time
};

// Takes a block of keys into its softmax, and its values where they can be.
template <int kKeys, Fill fill, typename T, int kSize>
ATTNPATCH_DEVICE void take_block(const BranchAttentionArguments& p, const KeyBlock<T>& block,
                                 BranchQueries<kSize>& x) {
  using Math = WarpTile<T, kSize, kKeys>;
  const Segment& s = block.segment;
  const RowPair f{factor_of(p, s, x.batch, x.query), factor_of(p, s, x.batch, x.query + 8)};
  const bool low = f.low != 0.0f, high = f.high != 0.0f;
  // In the first softmax a factor adds its logarithm to the scores.
  RowPair bias{0.0f, 0.0f}, factor[1] = {{1.0f, 1.0f}};
  if (block.first && s.branch >= 0) bias = {log2_of(f.low), log2_of(f.high)};

  Scores<kKeys> scores[1];
  Math::template products<fill>(scores, x.q, block.keys, block.count, x.lane);
  RowPair now = x.m;
  if (!block.again) {
    // A key whose factor is 0 is not there: neither in the maximum nor, as a NaN, in the sum.
    const RowPair top = Math::maximum(scores[0]);
    if (low) now.low = fmaxf(now.low, fmaf(top.low, x.scale, bias.low));
    if (high) now.high = fmaxf(now.high, fmaf(top.high, x.scale, bias.high));
  }
  // Where no key has counted yet, so that -inf - -inf gives no NaN.
  const RowPair shift{now.low == -INFINITY ? 0.0f : now.low,
                      now.high == -INFINITY ? 0.0f : now.high};
  const RowPair part =
      Math::exponentials(scores[0], {shift.low - bias.low, shift.high - bias.high}, x.scale);
  if (!block.again) {
    const RowPair shrink{exp2_of(x.m.low - shift.low), exp2_of(x.m.high - shift.high)};
    x.sum = {x.sum.low * shrink.low + (low ? part.low : 0.0f),
             x.sum.high * shrink.high + (high ? part.high : 0.0f)};
    x.m = now;
    if (block.comes_again) return;
    if (block.first) Math::multiply(x.out[0], shrink);
  }
  if (block.first) {
    x.low = x.low || low;
    x.high = x.high || high;
  } else {
    const RowPair sum = sum_over_row(x.sum);
    factor[0] = {f.low / sum.low, f.high / sum.high};
  }
  if (is_masked(p, s)) {
    Math::template add_values_where<fill>(x.out[0], scores, factor, low, high, block.values,
                                          x.lane);
  } else {
    Math::template add_values<fill>(x.out, scores, factor, block.values, x.lane);
  }
}

// All that a tile of queries attends to, block by block of keys.
template <typename T, int kSize>
ATTNPATCH_DEVICE void attend_all(Shelf<T, kSize>& shelf, BranchQueries<kSize>& x) {
  constexpr int kKeys = kBlockKeys<kSize>, kStride = kSize + kPad;
  const Segments& segments = shelf.segments;
  x.begin_softmax();
  x.low = x.high = false;
  KeyPlace<kKeys> at;
  for (bool more = segments.count > 0; more;) {
    const KeyPlace<kKeys> here = at;
    more = at.advance(segments);
    const int row = shelf.fetch(here, at), count = shelf.count_at(here);
    const KeyBlock<T> block{segments.list[here.segment],     shelf.keys + row * kStride,
                            shelf.values + row * kStride,    count,
                            here.segment < segments.grouped, here.again,
                            here.comes_again(segments)};
    if (count <= kFewKeys) {
      take_block<kFewKeys, Fill::kLastCut>(shelf.p, block, x);
    } else if (kSize < 64 && count > kKeys - 16) {  // larger heads have no registers for it
      take_block<kKeys, Fill::kLastCut>(shelf.p, block, x);
    } else {
      take_block<kKeys, Fill::kAny>(shelf.p, block, x);
    }
    if (more && (at.segment == here.segment || at.segment < segments.grouped)) continue;
    if (block.first) {
      const RowPair sum = sum_over_row(x.sum);
      WarpTile<T, kSize, kKeys>::multiply(
          x.out[0], {x.low ? 1.0f / sum.low : 0.0f, x.high ? 1.0f / sum.high : 0.0f});
    }
    x.begin_softmax();
  }
}

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads, kSize <= 64 ? 3 : 2)
    branch_attention_half(BranchAttentionArguments p) {
  using Math = WarpTile<T, kSize, kBlockKeys<kSize>>;
  constexpr int kStride = kSize + kPad;
  __shared__ Segments segments;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int64_t b = blockIdx.z, h = blockIdx.y;
  if (threadIdx.x == 0) collect_segments(p, b, segments);
  sync_block();

  const int rows = p.resident_rows > 0 ? p.resident_rows : 2 * kBlockKeys<kSize>;
  T* keys = reinterpret_cast<T*>(shared_memory());
  T* stages = keys + (2 * rows + warp * 16) * kStride;
  const Rows<T> q_rows = rows_of<T>(p.q, b, h), out_rows = rows_of<T>(p.out, b, h);
  const int size = static_cast<int>(p.head_size);
  const Team team{lane, kWarpSize};
  const int64_t tiles = (p.queries + kTileQueries - 1) / kTileQueries;
  const int64_t first_tile = int64_t{blockIdx.x} * p.tiles_per_block;
  const int mine = static_cast<int>(min(int64_t{p.tiles_per_block}, tiles - first_tile));
  const auto first_of = [&](int i) { return (first_tile + i) * kTileQueries + warp * 16; };
  const auto count_from = [&](int64_t first) {
    return static_cast<int>(max(int64_t{0}, min(int64_t{16}, p.queries - first)));
  };
  const auto load = [&](int i) {
    const int64_t first = first_of(i);
    load_rows<kSize>(stages + i % p.stages * kTileQueries * kStride, q_rows, first,
                     count_from(first), 16, size, p.vectorized, team);
    commit_copies();
  };
  Shelf<T, kSize> shelf{p, segments, h, keys, keys + rows * kStride};
  load(0);
  shelf.begin();
  for (int i = 0; i < mine; ++i) {  // alike for all warps: they meet in fetch
    if (p.stages == 1 && i > 0) load(i);
    if (p.stages > 1 && i + 1 < mine) {
      load(i + 1);
      wait_for_earlier_copies();
    } else {
      wait_for_copies();
    }
    sync_warp();
    const int64_t first = first_of(i);
    T* stage = stages + i % p.stages * kTileQueries * kStride;
    BranchQueries<kSize> x = {};
    x.batch = b;
    x.query = first + lane / 4;
    x.lane = lane;
    x.scale = positive(p.scale);
    Math::load_queries(x.q[0], stage, lane);
    if (p.scale < 0.0f) Math::negate(x.q[0]);
    sync_warp();
    attend_all(shelf, x);
    if (segments.missing) Math::multiply(x.out[0], {NAN, NAN});  // to be seen: nobody can stop here
    Math::store(x.out[0], stage, lane);
    sync_warp();
    store_rows<kSize>(out_rows, stage, first, count_from(first), size, p.vectorized, team);
    sync_warp();
  }
  wait_for_copies();  // a block of keys that nobody uses
}

}  // namespace attnpatch::kernels::device
