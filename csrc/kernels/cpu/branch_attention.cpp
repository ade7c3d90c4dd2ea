// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Strategy: all keys that concern one head (text and branches) stand in one row of scores, so that
// the whole site is two small matrix products around the softmaxes:
//
//   scores[key][query] = K[key] · Q[query],  P = weighted softmaxes over groups of keys,
//   out[channel][query] = sum over keys of V[key][channel] P[key][query]
//
// Queries lie along the vector lanes: maxima, sums and exponentials need no work across lanes, and
// any count of keys is handled without a masked tail. First all heads' keys and values are packed,
// then blocks of queries go through the heads, in tiles of W = 2 or 4 vectors of queries. For 93
// keys of size 64 with AVX2 a head is 48 KiB packed, streamed from L2, and a tile works in 14 KiB
// of L1.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/branch_attention.cpp"
#include <hwy/foreach_target.h>
// The order matters: the line above includes this file once per instruction set.
#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/branch_attention.h"
#include "kernels/cpu/arena.h"
#include "kernels/cpu/packed_keys-inl.h"
#include "kernels/cpu/query_tile-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline Segments collect_segments(const BranchAttentionParams& p, int64_t b) {
  Segments segments;
  const auto add = [&](const Segment& segment) {
    segments.list.push_back(segment);
    segments.keys += segment.tokens;
  };
  if (p.keys > 0) add({&p.k, &p.v, b, p.keys, 1.0f, nullptr});
  const auto count = static_cast<int64_t>(p.branches.size());
  for (int64_t i = 0; i <= count; ++i) {
    if (i == p.shared_softmax) segments.grouped = static_cast<int64_t>(segments.list.size());
    if (i == count) break;
    const AttentionBranch& branch = p.branches[i];
    if (branch.rows[b] < 0 || branch.weights[b] == 0.0f || branch.tokens == 0) continue;
    add({&branch.k, &branch.v, branch.rows[b], branch.tokens, branch.weights[b],
         branch.mask ? branch.mask + b * branch.mask_batch_stride : nullptr});
  }
  return segments;
}

// Where a tile's queries stand: the first one, and how many there are in all.
struct Place {
  int64_t query, queries;
};

// The mask's value of vector v of the tile's queries; 1 without a mask, 0 past the last query.
HWY_INLINE FloatVec load_mask(const float* mask, const Place& place, int64_t v) {
  const FloatTag d;
  if (mask == nullptr) return hn::Set(d, 1.0f);
  const int64_t query = place.query + v * kLanes;
  const int64_t left = HWY_MAX(place.queries - query, int64_t{0});
  if (left >= kLanes) return hn::LoadU(d, mask + query);
  HWY_ALIGN float part[kLanes] = {};
  std::memcpy(part, mask + query, sizeof(float) * static_cast<size_t>(left));
  return hn::Load(d, part);
}

// Weight times mask, for vector v of the tile's queries: 0 where the mask is, whatever the weight.
HWY_INLINE FloatVec factor_of(const Segment& s, const Place& place, int64_t v) {
  const FloatTag d;
  const FloatVec weight = hn::Set(d, s.weight);
  if (s.mask == nullptr) return weight;
  const FloatVec mask = load_mask(s.mask, place, v);
  return hn::IfThenZeroElse(hn::Eq(mask, hn::Zero(d)), hn::Mul(weight, mask));
}

// A factor as the share of a softmax: not a number below 0.
HWY_INLINE FloatVec share_of(FloatVec factor) {
  const FloatTag d;
  return hn::IfThenElse(hn::Lt(factor, hn::Zero(d)), hn::NaN(d), factor);
}

// Scores of a segment where its factor is 0: nothing of its keys is to arrive there, neither as the
// largest score of a group nor as a NaN.
template <int V>
void replace_masked(const Segment& s, const Place& place, float score, float* row) {
  const FloatTag d;
  hn::Mask<FloatTag> off[V];
  bool any = false;
  for (int v = 0; v < V; ++v) {
    off[v] = hn::Eq(factor_of(s, place, v), hn::Zero(d));
    any = any || !hn::AllFalse(d, off[v]);
  }
  if (!any) return;
  const FloatVec instead = hn::Set(d, score);
  for (int64_t t = 0; t < s.tokens; ++t) {
    for (int v = 0; v < V; ++v, row += kLanes) {
      hn::Store(hn::IfThenElse(off[v], instead, hn::Load(d, row)), d, row);
    }
  }
}

// The softmax of V vectors of queries over the keys of segments [begin, end), in place. Weight and
// mask multiply the exponentials in a group of several, and the whole result of a branch on its
// own.
template <int V>
void softmax_group(const Segments& segments, int64_t begin, int64_t end, const Place& place,
                   float* scores) {
  const FloatTag d;
  constexpr int64_t n = kLanes;
  const bool own = end - begin == 1;
  int64_t keys = 0;
  for (int64_t i = begin; i < end; ++i) {
    const Segment& s = segments.list[i];
    const float instead = own ? 0.0f : -std::numeric_limits<float>::infinity();
    if (s.mask != nullptr) replace_masked<V>(s, place, instead, scores + keys * V * n);
    keys += s.tokens;
  }

  FloatVec top[V], sum[V], factor[V];
  for (int v = 0; v < V; ++v) {
    top[v] = hn::Load(d, scores + v * n);
    sum[v] = hn::Zero(d);
    factor[v] = hn::Set(d, 1.0f);
  }
  for (int64_t key = 1; key < keys; ++key) {
    const float* row = scores + key * V * n;
    for (int v = 0; v < V; ++v) top[v] = hn::Max(top[v], hn::Load(d, row + v * n));
  }
  float* row = scores;
  for (int64_t i = begin; i < end; ++i) {
    const Segment& s = segments.list[i];
    for (int v = 0; v < V; ++v) {
      factor[v] = factor_of(s, place, v);
      if (!own) factor[v] = share_of(factor[v]);
    }
    for (int64_t t = 0; t < s.tokens; ++t, row += V * n) {
      for (int v = 0; v < V; ++v) {
        FloatVec e = exp_nonpositive(hn::Sub(hn::Load(d, row + v * n), top[v]));
        if (!own) e = hn::Mul(e, factor[v]);
        sum[v] = hn::Add(sum[v], e);
        hn::Store(e, d, row + v * n);
      }
    }
  }
  for (int v = 0; v < V; ++v) {
    factor[v] = hn::Div(own ? factor[v] : hn::Set(d, 1.0f), sum[v]);
  }
  row = scores;
  for (int64_t key = 0; key < keys; ++key, row += V * n) {
    for (int v = 0; v < V; ++v)
      hn::Store(hn::Mul(hn::Load(d, row + v * n), factor[v]), d, row + v * n);
  }
}

template <int V>
void softmaxes(const Segments& segments, const Place& place, float* scores) {
  const auto total = static_cast<int64_t>(segments.list.size());
  for (int64_t begin = 0; begin < total;) {
    const int64_t end = begin < segments.grouped ? segments.grouped : begin + 1;
    softmax_group<V>(segments, begin, end, place, scores);
    for (; begin < end; ++begin) scores += segments.list[begin].tokens * V * kLanes;
  }
}

// The product with the values, segment by segment: where some under a mask are not finite, 0 times
// them is not 0.
template <int V>
void add_values_apart(const Segments& segments, const PackedHead& head, int64_t size,
                      const Place& place, Scratch& scratch) {
  const FloatTag d;
  constexpr int64_t n = kLanes, width = V * kLanes;
  for (int64_t c = 0; c < size; c += 4) {
    float* out = scratch.out + c * width;
    std::fill_n(out, 4 * width, 0.0f);
    int64_t first = 0;
    for (const Segment& s : segments.list) {
      outer_product_sums<V>(head.values + c * head.panel + 4 * first,
                            scratch.scores + first * width, s.tokens,
                            [&](int row, const FloatVec* sum) HWY_ATTR {
                              float* to = out + row * width;
                              for (int v = 0; v < V; ++v, to += n) {
                                const auto off = hn::Eq(factor_of(s, place, v), hn::Zero(d));
                                const FloatVec term = hn::IfThenZeroElse(off, sum[v]);
                                hn::Store(hn::Add(hn::Load(d, to), term), d, to);
                              }
                            });
      first += s.tokens;
    }
  }
}

template <int V>
void tile(const Segments& segments, const PackedHead& head, bool finite, int64_t size,
          const Place& place, Scratch& scratch) {
  const int64_t width = V * kLanes;
  const int64_t keys = segments.keys;
  for (int64_t key = 0; key < keys; key += 4) {
    outer_product<V>(head.keys + key * size, scratch.queries, size, scratch.scores + key * width);
  }
  softmaxes<V>(segments, place, scratch.scores);
  if (!finite) return add_values_apart<V>(segments, head, size, place, scratch);
  for (int64_t c = 0; c < size; c += 4) {
    outer_product<V>(head.values + c * head.panel, scratch.scores, keys, scratch.out + c * width);
  }
}

// The packed heads of the whole batch, row after row.
struct PackedBatch {
  std::vector<Segments> rows;
  std::vector<int64_t> first;   // float of each row's first head
  std::vector<uint8_t> finite;  // of each row's heads: all values that stand under a mask
  float* memory = nullptr;
  int64_t size, longest = 0;

  PackedBatch(const BranchAttentionParams& p, Arena::Scope& scope)
      : finite(static_cast<size_t>(p.batch * p.kv_heads)), size(p.head_size) {
    int64_t total = 0;
    for (int64_t b = 0; b < p.batch; ++b) {
      rows.push_back(collect_segments(p, b));
      first.push_back(total);
      total += p.kv_heads * PackedHead::floats(rows.back().keys, size);
      longest = HWY_MAX(longest, rows.back().keys);
    }
    memory = scope.take(total);
  }

  PackedHead head(int64_t b, int64_t h) const {
    const int64_t keys = rows[b].keys;
    return {memory + first[b] + h * PackedHead::floats(keys, size), keys, size};
  }
};

// A task is a block of queries with a group of heads: the heads' rows of one query lie side by side
// in memory, so going through heads inside a block keeps its pages at hand.
template <typename Format>
void run(const BranchAttentionParams& p) {
  Arena::Scope packed_memory(thread_arena());
  PackedBatch packed(p, packed_memory);
  p.parallel_for(p.batch * p.kv_heads, [&](int64_t task, int64_t last) {
    for (; task < last; ++task) {
      const int64_t b = task / p.kv_heads, h = task % p.kv_heads;
      packed.finite[task] = pack<Format>(packed.rows[b], h, p.head_size, packed.head(b, h));
    }
  });

  const int64_t block = 6 * kTileVectors * kLanes;
  const int64_t blocks = (p.queries + block - 1) / block;
  const int64_t wanted = (8 * p.threads + p.batch * blocks - 1) / (p.batch * blocks);
  const int64_t group = (p.heads + wanted - 1) / wanted;
  const int64_t groups = (p.heads + group - 1) / group;
  p.parallel_for(p.batch * blocks * groups, [&](int64_t task, int64_t last) {
    Arena::Scope memory(thread_arena());
    Scratch scratch(memory, packed.longest, p.head_size);
    for (; task < last; ++task) {
      const int64_t b = task / (blocks * groups);
      const int64_t begin = task / groups % blocks * block;
      const int64_t first = task % groups * group;
      for (int64_t h = first; h < HWY_MIN(first + group, p.heads); ++h) {
        const HeadQueries queries{
            &p.q, &p.out, b, h, begin, HWY_MIN(begin + block, p.queries), p.head_size, p.scale};
        const int64_t kv_head = p.kv_head(h);
        for_each_tile<Format>(queries, scratch, [&](auto v, int64_t query, int64_t) {
          tile<v()>(packed.rows[b], packed.head(b, kv_head),
                    packed.finite[b * p.kv_heads + kv_head] != 0, p.head_size, {query, p.queries},
                    scratch);
        });
      }
    }
  });
}

void branch_attention(const BranchAttentionParams& params) {
  with_dtype(params.dtype, [&]<class Format>() { run<Format>(params); });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnpatch::kernels {

HWY_EXPORT(branch_attention);

void branch_attention_cpu(const BranchAttentionParams& params) {
  if (params.batch * params.heads * params.queries * params.head_size == 0) return;
  HWY_DYNAMIC_DISPATCH(branch_attention)(params);
}

}  // namespace attnpatch::kernels
#endif  // HWY_ONCE
