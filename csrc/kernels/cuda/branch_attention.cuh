// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Device code of branch_attention; ../branch_attention.h has the formula.
//
// A block of threads serves tiles of queries of one head. Softmaxes are groups of segments: the
// text with the branches that share its softmax, then each other branch. A group's weights, masks
// and 1 / sum are folded into its probabilities, so that all groups add to one accumulator and the
// output is written once. Groups of more than kBlockKeys keys are gone through twice: for maximum
// and sum, then for values.
//
// branch_attention_half (16-bit types, tensor cores): four warps, 16 queries each. Keys and values
// of all segments stay in shared memory where they fit; else each block of keys is loaded when
// needed. Registers a thread at head size 160: 40 for queries, 40 for scores, 80 for the
// accumulator. Shared memory: (2 keys + 64) rows of head size + 8 values; 8 keep matrix loads free
// of conflicts.
//
// branch_attention_any (any type, any strides, fp32 products): four lanes a query, each with every
// fourth channel; keys pass through shared memory 32 at a time, with an online softmax.

#pragma once

#include "kernels/cuda/any_query.cuh"
#include "kernels/cuda/branch_attention_plan.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/warp_tile.cuh"

namespace attnpatch::kernels::device {

struct Segment {
  int branch;    // -1: the text
  int tokens;    // > 0
  int first;     // row in shared memory, where all stay there
  int64_t row;   // of the branch's keys and values
  float weight;  // 1 for the text
};

struct Segments {
  Segment list[kMostBranches + 1];
  int count;
  int grouped;   // how many, from the first, share one softmax
  bool missing;  // a row of keys was asked for that is not there
};

// Lists what row b of the batch attends to. One thread does it for its block.
ATTNPATCH_DEVICE void collect_segments(const BranchAttentionArguments& p, int64_t b,
                                       Segments& segments) {
  int count = 0, rows = 0;
  segments.grouped = 0;
  segments.missing = false;
  for (int i = -1; i < p.branch_count; ++i) {
    Segment s{i, static_cast<int>(p.keys), rows, b, 1.0f};
    if (i >= 0) {
      s.tokens = static_cast<int>(p.branches[i].tokens);
      s.row = p.branches[i].rows[b];
      s.weight = p.branches[i].weights[b];
      if (s.row >= p.branches[i].row_count) {
        segments.missing = true;
        continue;
      }
    }
    if (s.tokens == 0 || s.row < 0 || s.weight == 0.0f) continue;
    segments.list[count++] = s;
    rows += (s.tokens + 15) / 16 * 16;
    if (i < p.shared_softmax) segments.grouped = count;
  }
  segments.count = count;
}

// Weight times mask of a segment for one query; 0 where the mask is, whatever the weight. Not a
// number where the share of a softmax would be below 0.
ATTNPATCH_DEVICE float factor_of(const BranchAttentionArguments& p, const Segment& s, int64_t b,
                                 int64_t query) {
  if (s.branch < 0) return 1.0f;
  const AttentionBranch& branch = p.branches[s.branch];
  float factor = s.weight;
  if (branch.mask != nullptr && query < p.queries) {
    const float mask = branch.mask[b * branch.mask_batch_stride + query];
    factor = mask == 0.0f ? 0.0f : s.weight * mask;
  }
  return s.branch < p.shared_softmax && factor < 0.0f ? NAN : factor;
}

ATTNPATCH_DEVICE bool is_masked(const BranchAttentionArguments& p, const Segment& s) {
  return s.branch >= 0 && p.branches[s.branch].mask != nullptr;
}

template <typename T, int kSize>
using BranchTile = WarpTile<T, kSize, kBlockKeys>;

// Keys and values in shared memory.
template <typename T, int kSize>
struct Shelf {
  const BranchAttentionArguments& p;
  const Segments& segments;
  int64_t head;  // of keys and values
  T* keys;
  T* values;

  ATTNPATCH_DEVICE void load(const Segment& s, int start, int count, int row) const {
    const AttentionView& k = s.branch < 0 ? p.k : p.branches[s.branch].k;
    const AttentionView& v = s.branch < 0 ? p.v : p.branches[s.branch].v;
    const int rows = (count + 15) / 16 * 16, size = static_cast<int>(p.head_size);
    const int offset = row * (kSize + kPad);
    const Team team{static_cast<int>(threadIdx.x), kThreads};
    load_rows<kSize>(keys + offset, rows_of<T>(k, s.row, head), start, count, rows, size,
                     p.vectorized, team);
    load_rows<kSize>(values + offset, rows_of<T>(v, s.row, head), start, count, rows, size,
                     p.vectorized, team);
  }

  ATTNPATCH_DEVICE void load_all() const {
    for (int i = 0; i < segments.count; ++i) {
      load(segments.list[i], 0, segments.list[i].tokens, segments.list[i].first);
    }
    wait_for_copies();
    sync_block();
  }

  // The row where `count` keys from `start` of a segment are. All threads of the block come here.
  ATTNPATCH_DEVICE int fetch(const Segment& s, int start, int count) const {
    if (p.resident_rows > 0) return s.first + start;
    sync_block();
    load(s, start, count, 0);
    wait_for_copies();
    sync_block();
    return 0;
  }
};

// Exponentials, relative to the larger of m and top, into the sum and the maximum of a query.
ATTNPATCH_DEVICE void take_in(float top, float part, float factor, bool shared_softmax, float& m,
                              float& sum) {
  if (factor == 0.0f) return;
  const float now = fmaxf(m, top);
  sum = sum * exp2_of(m - now) + part * (shared_softmax ? factor : 1.0f);
  m = now;
}

// A segment with a softmax of its own over at most kKeys keys: in one go.
template <int kKeys, typename T, int kSize>
ATTNPATCH_DEVICE void attend_once(const Shelf<T, kSize>& shelf, int i, const WarpQueries<kSize>& q,
                                  WarpOutput<kSize>& out, int64_t b, int64_t query, int lane) {
  using Math = WarpTile<T, kSize, kKeys>;
  constexpr int kStride = kSize + kPad;
  const BranchAttentionArguments& p = shelf.p;
  const Segment& s = shelf.segments.list[i];
  const RowPair f{factor_of(p, s, b, query), factor_of(p, s, b, query + 8)};
  const int row = shelf.fetch(s, 0, s.tokens);
  Scores<kKeys> scores;
  Math::score(scores, q, shelf.keys + row * kStride, s.tokens, p.scale, lane);
  const RowPair m = Math::maximum(scores);
  RowPair sum = sum_over_row(Math::exponentials(scores, m));
  if (i < shelf.segments.grouped) sum = {sum.low * f.low, sum.high * f.high};
  const RowPair factor{f.low / sum.low, f.high / sum.high};
  const T* values = shelf.values + row * kStride;
  if (is_masked(p, s)) {
    Math::add_values_where(out, scores, factor, f.low != 0.0f, f.high != 0.0f, values, lane);
  } else {
    Math::add_values(out, scores, factor, values, lane);
  }
}

// Segments [begin, end) with one softmax: gone through twice, for maximum and sum, then for values.
template <typename T, int kSize>
ATTNPATCH_DEVICE void attend_group(const Shelf<T, kSize>& shelf, int begin, int end,
                                   const WarpQueries<kSize>& q, WarpOutput<kSize>& out, int64_t b,
                                   int64_t query, int lane) {
  using Math = BranchTile<T, kSize>;
  constexpr int kStride = kSize + kPad;
  const BranchAttentionArguments& p = shelf.p;
  const bool shared_softmax = begin < shelf.segments.grouped;
  RowPair m{-INFINITY, -INFINITY}, sum{0.0f, 0.0f};
  for (int pass = 0; pass < 2; ++pass) {
    if (pass == 1) sum = sum_over_row(sum);
    for (int i = begin; i < end; ++i) {
      const Segment& s = shelf.segments.list[i];
      const RowPair f{factor_of(p, s, b, query), factor_of(p, s, b, query + 8)};
      for (int start = 0; start < s.tokens; start += kBlockKeys) {
        const int count = min(kBlockKeys, s.tokens - start);
        const int row = shelf.fetch(s, start, count);
        Scores<kBlockKeys> scores;
        Math::score(scores, q, shelf.keys + row * kStride, count, p.scale, lane);
        if (pass == 0) {
          const RowPair top = Math::maximum(scores);
          const RowPair part =
              Math::exponentials(scores, {fmaxf(m.low, top.low), fmaxf(m.high, top.high)});
          // A key whose factor is 0 is not there: neither in the maximum nor, as a NaN, in the sum.
          take_in(top.low, part.low, f.low, shared_softmax, m.low, sum.low);
          take_in(top.high, part.high, f.high, shared_softmax, m.high, sum.high);
          continue;
        }
        Math::exponentials(scores, m);
        const RowPair factor{f.low / sum.low, f.high / sum.high};
        const T* values = shelf.values + row * kStride;
        if (is_masked(p, s)) {
          Math::add_values_where(out, scores, factor, f.low != 0.0f, f.high != 0.0f, values, lane);
        } else {
          Math::add_values(out, scores, factor, values, lane);
        }
      }
    }
  }
}

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) branch_attention_half(BranchAttentionArguments p) {
  using Math = BranchTile<T, kSize>;
  constexpr int kStride = kSize + kPad;
  __shared__ Segments segments;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int64_t b = blockIdx.z, h = blockIdx.y;
  if (threadIdx.x == 0) collect_segments(p, b, segments);
  sync_block();

  const int rows = p.resident_rows > 0 ? p.resident_rows : kBlockKeys;
  T* keys = reinterpret_cast<T*>(shared_memory());
  const Shelf<T, kSize> shelf{p, segments, h, keys, keys + rows * kStride};
  T* stage = keys + (2 * rows + warp * 16) * kStride;
  if (p.resident_rows > 0) shelf.load_all();

  const Rows<T> q_rows = rows_of<T>(p.q, b, h), out_rows = rows_of<T>(p.out, b, h);
  const int size = static_cast<int>(p.head_size);
  const Team team{lane, kWarpSize};
  for (int i = 0; i < p.tiles_per_block; ++i) {
    const int64_t tile = (int64_t{blockIdx.x} * p.tiles_per_block + i) * kTileQueries;
    if (tile >= p.queries) break;  // for all warps alike: they meet in fetch
    const int64_t first = tile + warp * 16;
    const int count = static_cast<int>(max(int64_t{0}, min(int64_t{16}, p.queries - first)));
    load_rows<kSize>(stage, q_rows, first, count, 16, size, p.vectorized, team);
    wait_for_copies();
    sync_warp();
    typename Math::Queries q;
    Math::load_queries(q, stage, lane);
    sync_warp();
    typename Math::Output out = {};
    const int64_t query = first + lane / 4;
    for (int begin = 0; begin < segments.count;) {
      const int end = begin < segments.grouped ? segments.grouped : begin + 1;
      const int tokens = segments.list[begin].tokens;
      if (end - begin == 1 && tokens <= kFewKeys) {
        attend_once<kFewKeys>(shelf, begin, q, out, b, query, lane);
      } else if (end - begin == 1 && tokens <= kBlockKeys) {
        attend_once<kBlockKeys>(shelf, begin, q, out, b, query, lane);
      } else {
        attend_group<T, kSize>(shelf, begin, end, q, out, b, query, lane);
      }
      begin = end;
    }
    if (segments.missing) Math::multiply(out, {NAN, NAN});  // to be seen: nobody can stop here
    Math::store(out, stage, lane);
    sync_warp();
    store_rows<kSize>(out_rows, stage, first, count, size, p.vectorized, team);
    sync_warp();
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) branch_attention_any(BranchAttentionArguments p) {
  __shared__ Segments segments;
  const int64_t b = blockIdx.z, h = blockIdx.y;
  if (threadIdx.x == 0) collect_segments(p, b, segments);
  sync_block();

  const int size = static_cast<int>(p.head_size), part = threadIdx.x % 4;
  const int64_t query = int64_t{blockIdx.x} * kAnyQueries + threadIdx.x / 4;
  const bool inside = query < p.queries;
  auto* shared = reinterpret_cast<float*>(shared_memory());
  AnyQuery online = {};
  online.load(rows_of<T>(p.q, b, h).row(inside ? query : 0), p.q.channel_stride, p.scale, size,
              part);
  Quarter out = {};
  for (int begin = 0; begin < segments.count;) {
    const bool shared_softmax = begin < segments.grouped;
    const int end = shared_softmax ? segments.grouped : begin + 1;
    float factor = 1.0f;
    online.begin();
    for (int i = begin; i < end; ++i) {
      const Segment& s = segments.list[i];
      const AttentionView& k = s.branch < 0 ? p.k : p.branches[s.branch].k;
      const AttentionView& v = s.branch < 0 ? p.v : p.branches[s.branch].v;
      factor = factor_of(p, s, b, query);
      online.attend(KeysValues<T>{rows_of<T>(k, s.row, h), rows_of<T>(v, s.row, h), s.tokens},
                    shared_softmax || factor == 0.0f ? factor : 1.0f, shared, size, part);
    }
    if (!shared_softmax && factor == 0.0f) {
      begin = end;
      continue;
    }
    const float scale = (shared_softmax ? 1.0f : factor) / online.sum;
#pragma unroll
    for (int i = 0; i < Quarter::kMine; ++i) out.c[i] += online.sums.c[i] * scale;
    begin = end;
  }
  if (!inside) return;
  T* out_row = const_cast<T*>(rows_of<T>(p.out, b, h).row(query));
  Quarter::each(size, part, [&](int i, int channel) {
    // A missing row is to be seen: nobody can stop here.
    out_row[channel * p.out.channel_stride] = from_float<T>(segments.missing ? NAN : out.c[i]);
  });
}

}  // namespace attnpatch::kernels::device
