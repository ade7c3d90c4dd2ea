// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Device code of branch_attention; ../branch_attention.h has the formula.
//
// A block of threads serves tiles of queries of one head. Softmaxes are groups of segments: the
// text with the joint branches, then each other branch. A group's weights, masks and 1 / sum are
// folded into its probabilities, so that all groups add to one accumulator and the output is
// written once. Groups of more than kBlockKeys keys are gone through twice: for maximum and sum,
// then for values.
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

#include "kernels/cuda/branch_attention_plan.h"
#include "kernels/cuda/device.cuh"

namespace attnpatch::device {

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
  int grouped;  // how many, from the first, share one softmax
};

template <typename T>
ATTNPATCH_DEVICE const T* head_of(const AttentionView& view, int64_t row, int64_t head) {
  return static_cast<const T*>(view.data) + row * view.batch_stride + head * view.head_stride;
}

// Lists what row b of the batch attends to. One thread does it for its block.
ATTNPATCH_DEVICE void collect_segments(const BranchAttentionArguments& p, int64_t b,
                                       Segments& segments) {
  int count = 0, rows = 0;
  segments.grouped = 0;
  for (int i = -1; i < p.branch_count; ++i) {
    Segment s{i, static_cast<int>(p.text_tokens), rows, b, 1.0f};
    if (i >= 0) {
      s.tokens = static_cast<int>(p.branches[i].tokens);
      s.row = p.branches[i].rows[b];
      s.weight = p.branches[i].weights[b];
    }
    if (s.tokens == 0 || s.row < 0 || s.weight == 0.0f) continue;
    segments.list[count++] = s;
    rows += (s.tokens + 15) / 16 * 16;
    if (i < p.joint) segments.grouped = count;
  }
  segments.count = count;
}

// Weight times mask of a segment for one query.
ATTNPATCH_DEVICE float factor_of(const BranchAttentionArguments& p, const Segment& s, int64_t b,
                                 int64_t query) {
  if (s.branch < 0) return 1.0f;
  const AttentionBranch& branch = p.branches[s.branch];
  if (branch.mask == nullptr || query >= p.queries) return s.weight;
  return s.weight * branch.mask[b * branch.mask_batch_stride + query];
}

// Rows [first, first + count) of one head to shared memory, zeros up to `rows` rows and `width`
// channels. Done by `threads` threads, of which this is number `thread`.
template <typename T>
ATTNPATCH_DEVICE void load_rows(T* to, const AttentionView& view, const T* head, int64_t first,
                                int count, int rows, int size, int width, bool vectorized,
                                int thread, int threads) {
  constexpr int kValues = 16 / sizeof(T);
  const int stride = width + kPad;
  if (vectorized) {
    const int pieces = width / kValues;
    for (int i = thread; i < rows * pieces; i += threads) {
      const int row = i / pieces, channel = i % pieces * kValues;
      uint4 piece = {0, 0, 0, 0};
      if (row < count && channel < size) {
        piece = *reinterpret_cast<const uint4*>(head + (first + row) * view.token_stride + channel);
      }
      *reinterpret_cast<uint4*>(to + row * stride + channel) = piece;
    }
    return;
  }
  for (int i = thread; i < rows * width; i += threads) {
    const int row = i / width, channel = i % width;
    T value = from_float<T>(0.0f);
    if (row < count && channel < size) {
      value = head[(first + row) * view.token_stride + channel * view.channel_stride];
    }
    to[row * stride + channel] = value;
  }
}

// Scores of a warp's 16 queries with up to kBlockKeys keys, and how far they count.
struct Scores {
  float s[kBlockKeys / 8][4];
  int keys;
};

struct RowPair {  // a value for each of the two queries of a lane, g and g + 8
  float low, high;
};

ATTNPATCH_DEVICE RowPair max_over_row(RowPair m) {
  for (int mask = 1; mask <= 2; mask *= 2) {
    m.low = fmaxf(m.low, shuffle_xor(m.low, mask));
    m.high = fmaxf(m.high, shuffle_xor(m.high, mask));
  }
  return m;
}

ATTNPATCH_DEVICE RowPair sum_over_row(RowPair m) {
  for (int mask = 1; mask <= 2; mask *= 2) {
    m.low += shuffle_xor(m.low, mask);
    m.high += shuffle_xor(m.high, mask);
  }
  return m;
}

template <typename T, int kSize>
struct Half {
  static constexpr int kStride = kSize + kPad;

  struct Queries {
    uint32_t a[kSize / 16][4];
  };
  struct Output {
    float o[kSize / 8][4];
  };

  // From the warp's rows in shared memory.
  static ATTNPATCH_DEVICE void load_queries(Queries& q, const T* rows, int lane) {
#pragma unroll
    for (int k = 0; k < kSize / 16; ++k) {
      load_matrices(q.a[k], rows + (lane % 16) * kStride + k * 16 + lane / 16 * 8);
    }
  }

  static ATTNPATCH_DEVICE void score(Scores& scores, const Queries& q, const T* keys, int count,
                                     float scale, int lane) {
    scores.keys = count;
#pragma unroll
    for (int j = 0; j < kBlockKeys / 16; ++j) {
      float(&left)[4] = scores.s[2 * j];
      float(&right)[4] = scores.s[2 * j + 1];
      for (int i = 0; i < 4; ++i) left[i] = right[i] = 0.0f;
      if (j * 16 >= count) continue;
      const T* row = keys + (j * 16 + lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
      for (int k = 0; k < kSize / 16; ++k) {
        uint32_t b[4];
        load_matrices(b, row + k * 16);
        multiply_add<T>(left, q.a[k], b[0], b[1]);
        multiply_add<T>(right, q.a[k], b[2], b[3]);
      }
    }
#pragma unroll
    for (int j = 0; j < kBlockKeys / 8; ++j) {
      for (int i = 0; i < 4; ++i) {
        const int key = j * 8 + lane % 4 * 2 + i % 2;
        scores.s[j][i] = key < count ? scores.s[j][i] * scale : -INFINITY;
      }
    }
  }

  static ATTNPATCH_DEVICE RowPair maximum(const Scores& scores) {
    RowPair m{-INFINITY, -INFINITY};
#pragma unroll
    for (int j = 0; j < kBlockKeys / 8; ++j) {
      m.low = fmaxf(m.low, fmaxf(scores.s[j][0], scores.s[j][1]));
      m.high = fmaxf(m.high, fmaxf(scores.s[j][2], scores.s[j][3]));
    }
    return max_over_row(m);
  }

  // Replaces scores by 2^(s - m) and gives this lane's part of their sum.
  static ATTNPATCH_DEVICE RowPair exponentials(Scores& scores, RowPair m) {
    RowPair sum{0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < kBlockKeys / 8; ++j) {
      for (int i = 0; i < 2; ++i) {
        sum.low += scores.s[j][i] = exp2_of(scores.s[j][i] - m.low);
        sum.high += scores.s[j][i + 2] = exp2_of(scores.s[j][i + 2] - m.high);
      }
    }
    return sum;
  }

  static ATTNPATCH_DEVICE void add_values(Output& out, const Scores& p, RowPair factor,
                                          const T* values, int lane) {
#pragma unroll
    for (int j = 0; j < kBlockKeys / 16; ++j) {
      if (j * 16 >= p.keys) continue;
      const float(&left)[4] = p.s[2 * j];
      const float(&right)[4] = p.s[2 * j + 1];
      const uint32_t a[4] = {
          pack<T>(left[0] * factor.low, left[1] * factor.low),
          pack<T>(left[2] * factor.high, left[3] * factor.high),
          pack<T>(right[0] * factor.low, right[1] * factor.low),
          pack<T>(right[2] * factor.high, right[3] * factor.high),
      };
      const T* row = values + (j * 16 + lane / 8 % 2 * 8 + lane % 8) * kStride + lane / 16 * 8;
#pragma unroll
      for (int c = 0; c < kSize / 16; ++c) {
        uint32_t b[4];
        load_matrices_transposed(b, row + c * 16);
        multiply_add<T>(out.o[2 * c], a, b[0], b[1]);
        multiply_add<T>(out.o[2 * c + 1], a, b[2], b[3]);
      }
    }
  }
};

// Keys and values in shared memory.
template <typename T, int kSize>
struct Shelf {
  const BranchAttentionArguments& p;
  const Segments& segments;
  int64_t head;
  T* keys;
  T* values;

  ATTNPATCH_DEVICE void load(const Segment& s, int start, int count, int row) const {
    const AttentionView& k = s.branch < 0 ? p.k : p.branches[s.branch].k;
    const AttentionView& v = s.branch < 0 ? p.v : p.branches[s.branch].v;
    const int rows = (count + 15) / 16 * 16, size = static_cast<int>(p.head_size);
    const int offset = row * (kSize + kPad);
    load_rows<T>(keys + offset, k, head_of<T>(k, s.row, head), start, count, rows, size, kSize,
                 p.vectorized, threadIdx.x, kThreads);
    load_rows<T>(values + offset, v, head_of<T>(v, s.row, head), start, count, rows, size, kSize,
                 p.vectorized, threadIdx.x, kThreads);
  }

  ATTNPATCH_DEVICE void load_all() const {
    for (int i = 0; i < segments.count; ++i) {
      load(segments.list[i], 0, segments.list[i].tokens, segments.list[i].first);
    }
    sync_block();
  }

  // The row where `count` keys from `start` of a segment are. All threads of the block come here.
  ATTNPATCH_DEVICE int fetch(const Segment& s, int start, int count) const {
    if (p.resident_rows > 0) return s.first + start;
    sync_block();
    load(s, start, count, 0);
    sync_block();
    return 0;
  }
};

template <typename T, int kSize>
ATTNPATCH_DEVICE void attend_group(const Shelf<T, kSize>& shelf, int begin, int end,
                                   const typename Half<T, kSize>::Queries& q,
                                   typename Half<T, kSize>::Output& out, int64_t b, int64_t query,
                                   int lane) {
  using Math = Half<T, kSize>;
  constexpr int kStride = kSize + kPad;
  const BranchAttentionArguments& p = shelf.p;
  const bool joint = begin < shelf.segments.grouped;
  const bool once = end - begin == 1 && shelf.segments.list[begin].tokens <= kBlockKeys;
  RowPair m{-INFINITY, -INFINITY}, sum{0.0f, 0.0f};
  for (int pass = once ? 1 : 0; pass < 2; ++pass) {
    if (pass == 1 && !once) sum = sum_over_row(sum);
    for (int i = begin; i < end; ++i) {
      const Segment& s = shelf.segments.list[i];
      const RowPair f{factor_of(p, s, b, query), factor_of(p, s, b, query + 8)};
      for (int start = 0; start < s.tokens; start += kBlockKeys) {
        const int count = min(kBlockKeys, s.tokens - start);
        const int row = shelf.fetch(s, start, count);
        Scores scores;
        Math::score(scores, q, shelf.keys + row * kStride, count, p.scale, lane);
        if (pass == 0) {
          const RowPair top = Math::maximum(scores);
          const RowPair now{fmaxf(m.low, top.low), fmaxf(m.high, top.high)};
          const RowPair part = Math::exponentials(scores, now);
          sum.low = sum.low * exp2_of(m.low - now.low) + part.low * (joint ? f.low : 1.0f);
          sum.high = sum.high * exp2_of(m.high - now.high) + part.high * (joint ? f.high : 1.0f);
          m = now;
          continue;
        }
        if (once) m = Math::maximum(scores);
        const RowPair part = Math::exponentials(scores, m);
        if (once) {
          sum = sum_over_row(part);
          if (joint) sum = {sum.low * f.low, sum.high * f.high};
        }
        Math::add_values(out, scores, {f.low / sum.low, f.high / sum.high},
                         shelf.values + row * kStride, lane);
      }
    }
  }
}

template <typename T, int kSize>
ATTNPATCH_DEVICE void store_tile(const BranchAttentionArguments& p,
                                 const typename Half<T, kSize>::Output& out, T* stage, T* head,
                                 int64_t first, int lane) {
  constexpr int kStride = kSize + kPad;
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int c = 0; c < kSize / 8; ++c) {
    const uint32_t low = pack<T>(out.o[c][0], out.o[c][1]);
    const uint32_t high = pack<T>(out.o[c][2], out.o[c][3]);
    *reinterpret_cast<uint32_t*>(stage + g * kStride + c * 8 + t * 2) = low;
    *reinterpret_cast<uint32_t*>(stage + (g + 8) * kStride + c * 8 + t * 2) = high;
  }
  sync_warp();
  // Our own output: its channels lie side by side, its rows start where head size allows.
  const int size = static_cast<int>(p.head_size);
  const int rows = static_cast<int>(min(int64_t{16}, p.queries - first));
  if (p.vectorized) {
    const int pieces = size / 8;
    for (int i = lane; i < rows * pieces; i += kWarpSize) {
      const int row = i / pieces, channel = i % pieces * 8;
      *reinterpret_cast<uint4*>(head + (first + row) * p.out.token_stride + channel) =
          *reinterpret_cast<const uint4*>(stage + row * kStride + channel);
    }
  } else {
    for (int i = lane; i < rows * size; i += kWarpSize) {
      const int row = i / size, channel = i % size;
      head[(first + row) * p.out.token_stride + channel * p.out.channel_stride] =
          stage[row * kStride + channel];
    }
  }
  sync_warp();
}

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) branch_attention_half(BranchAttentionArguments p) {
  using Math = Half<T, kSize>;
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

  const T* q_head = head_of<T>(p.q, b, h);
  T* out_head = const_cast<T*>(head_of<T>(p.out, b, h));
  for (int i = 0; i < p.tiles_per_block; ++i) {
    const int64_t tile = (int64_t{blockIdx.x} * p.tiles_per_block + i) * kTileQueries;
    if (tile >= p.queries) break;  // for all warps alike: they meet in fetch
    const int64_t first = tile + warp * 16;
    const int count = static_cast<int>(max(int64_t{0}, min(int64_t{16}, p.queries - first)));
    load_rows<T>(stage, p.q, q_head, first, count, 16, static_cast<int>(p.head_size), kSize,
                 p.vectorized, lane, kWarpSize);
    sync_warp();
    typename Math::Queries q;
    Math::load_queries(q, stage, lane);
    sync_warp();
    typename Math::Output out = {};
    const int64_t query = first + lane / 4;
    for (int begin = 0; begin < segments.count;) {
      const int end = begin < segments.grouped ? segments.grouped : begin + 1;
      attend_group<T, kSize>(shelf, begin, end, q, out, b, query, lane);
      begin = end;
    }
    if (first < p.queries) store_tile<T, kSize>(p, out, stage, out_head, first, lane);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) branch_attention_any(BranchAttentionArguments p) {
  constexpr int kMine = kMostSize / 4;
  __shared__ Segments segments;
  const int64_t b = blockIdx.z, h = blockIdx.y;
  if (threadIdx.x == 0) collect_segments(p, b, segments);
  sync_block();

  const int size = static_cast<int>(p.head_size), part = threadIdx.x % 4;
  const int64_t query = int64_t{blockIdx.x} * kAnyQueries + threadIdx.x / 4;
  const bool inside = query < p.queries;
  float* keys = reinterpret_cast<float*>(shared_memory());
  float* values = keys + kAnyKeys * size;
  const T* q_row = head_of<T>(p.q, b, h) + (inside ? query : 0) * p.q.token_stride;
  float q[kMine], out[kMine], sums[kMine];
#pragma unroll
  for (int c = 0; c < kMine; ++c) {
    const int channel = c * 4 + part;
    q[c] = channel < size ? to_float(q_row[channel * p.q.channel_stride]) * p.scale : 0.0f;
    out[c] = 0.0f;
  }
  for (int begin = 0; begin < segments.count;) {
    const bool joint = begin < segments.grouped;
    const int end = joint ? segments.grouped : begin + 1;
    float m = -INFINITY, sum = 0.0f, factor = 1.0f;
#pragma unroll
    for (int c = 0; c < kMine; ++c) sums[c] = 0.0f;
    for (int i = begin; i < end; ++i) {
      const Segment& s = segments.list[i];
      const AttentionView& k = s.branch < 0 ? p.k : p.branches[s.branch].k;
      const AttentionView& v = s.branch < 0 ? p.v : p.branches[s.branch].v;
      const T* k_head = head_of<T>(k, s.row, h);
      const T* v_head = head_of<T>(v, s.row, h);
      factor = factor_of(p, s, b, query);
      for (int start = 0; start < s.tokens; start += kAnyKeys) {
        const int count = min(kAnyKeys, s.tokens - start);
        sync_block();
        for (int j = threadIdx.x; j < count * size; j += kThreads) {
          const int64_t token = start + j / size;
          const int channel = j % size;
          keys[j] = to_float(k_head[token * k.token_stride + channel * k.channel_stride]);
          values[j] = to_float(v_head[token * v.token_stride + channel * v.channel_stride]);
        }
        sync_block();
        for (int key = 0; key < count; ++key) {
          float score = 0.0f;
#pragma unroll
          for (int c = 0; c < kMine; ++c) {
            if (c * 4 + part < size) score += q[c] * keys[key * size + c * 4 + part];
          }
          score += shuffle_xor(score, 1);
          score += shuffle_xor(score, 2);
          const float top = fmaxf(m, score);
          const float shrink = exp2_of(m - top);
          const float e = exp2_of(score - top) * (joint ? factor : 1.0f);
          m = top;
          sum = sum * shrink + e;
#pragma unroll
          for (int c = 0; c < kMine; ++c) {
            if (c * 4 + part < size) {
              sums[c] = sums[c] * shrink + e * values[key * size + c * 4 + part];
            }
          }
        }
      }
    }
    const float scale = (joint ? 1.0f : factor) / sum;
#pragma unroll
    for (int c = 0; c < kMine; ++c) out[c] += sums[c] * scale;
    begin = end;
  }
  if (!inside) return;
  T* out_row = const_cast<T*>(head_of<T>(p.out, b, h)) + query * p.out.token_stride;
#pragma unroll
  for (int c = 0; c < kMine; ++c) {
    const int channel = c * 4 + part;
    if (channel < size) out_row[channel * p.out.channel_stride] = from_float<T>(out[c]);
  }
}

}  // namespace attnpatch::device
