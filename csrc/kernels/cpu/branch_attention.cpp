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
#include <hwy/aligned_allocator.h>
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "kernels/branch_attention.h"
#include "kernels/cpu/packed_keys-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Vectors in a full tile. Two give AVX2's 16 registers eight sums at work, which is what two
// multiply-adds a cycle with a latency of four want; three measured slower.
constexpr int kTileVectors = HWY_TARGET == HWY_AVX2 ? 2 : 4;

// Aligned floats that are kept from call to call and only grow.
class Workspace {
 public:
  float* reserve(int64_t count) {
    if (count > capacity_) {
      memory_ = hwy::AllocateAligned<float>(static_cast<size_t>(count));
      if (!memory_) throw std::bad_alloc();
      capacity_ = count;
    }
    return memory_.get();
  }

 private:
  hwy::AlignedFreeUniquePtr<float[]> memory_;
  int64_t capacity_ = 0;
};

// The working memory of one thread: queries [channel][W], scores [key][W], out [channel][W], and
// rows.
struct Scratch {
  float *queries, *scores, *out, *rows;
  int64_t row_size;

  Scratch(Workspace& workspace, int64_t key_count, int64_t size) {
    const int64_t width = kTileVectors * kLanes;
    const int64_t channels = round_up(size, kLanes > 4 ? kLanes : 4);
    const int64_t parts[] = {channels * width, round_up(key_count, 4) * width, channels * width,
                             channels * kLanes};
    row_size = channels;
    int64_t total = 0;
    for (const int64_t part : parts) total += round_up(part, 16);
    float* next = workspace.reserve(total);
    float** areas[] = {&queries, &scores, &out, &rows};
    for (size_t i = 0; i < std::size(parts); ++i) {
      *areas[i] = next;
      next += round_up(parts[i], 16);
    }
  }
};

// Can a row be read and written in place, four values at a time?
template <typename Format>
bool in_place(const AttentionView& view, int64_t size) {
  return std::is_same_v<Format, Float32> && view.channel_stride == 1 && size % 4 == 0;
}

// queries[channel][W], times the factor; queries past the last are zero.
template <typename Format>
void load_queries(const typename Format::T* q, const AttentionView& view, int64_t count,
                  int64_t size, int64_t width, float factor, Scratch& scratch) {
  const int64_t row_size = scratch.row_size;
  for (int64_t base = 0; base < width; base += kLanes) {
    const float* rows[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const typename Format::T* row = q + (base + lane) * view.token_stride;
      float* copy = scratch.rows + lane * row_size;
      rows[lane] = copy;
      if (base + lane >= count) {
        std::memset(copy, 0, sizeof(float) * static_cast<size_t>(row_size));
      } else if (in_place<Format>(view, size)) {
        rows[lane] = reinterpret_cast<const float*>(row);
      } else {
        convert_row<Format>(row, view.channel_stride, size, copy);
      }
    }
    columns_from_rows(rows, round_up(size, 4), factor, width, scratch.queries + base);
  }
}

template <typename Format>
void store_output(typename Format::T* out, const AttentionView& view, int64_t count, int64_t size,
                  int64_t width, Scratch& scratch) {
  for (int64_t base = 0; base < count; base += kLanes) {
    const int64_t used = HWY_MIN(kLanes, count - base);
    float* rows[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      rows[lane] = scratch.rows + lane * scratch.row_size;
      if (lane < used && in_place<Format>(view, size)) {
        rows[lane] = reinterpret_cast<float*>(out + (base + lane) * view.token_stride);
      }
    }
    rows_from_columns(scratch.out + base, round_up(size, 4), width, rows);
    if (in_place<Format>(view, size)) continue;
    for (int64_t lane = 0; lane < used; ++lane) {
      store_row<Format>(rows[lane], size, out + (base + lane) * view.token_stride,
                        view.channel_stride);
    }
  }
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
  for (int64_t i = begin; i < end; ++i) keys += segments.list[i].tokens;

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
    const FloatVec weight = hn::Set(d, s.weight);
    for (int v = 0; v < V; ++v) factor[v] = hn::Mul(weight, load_mask(s.mask, place, v));
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

template <int V>
void tile(const Segments& segments, const PackedHead& head, int64_t size, const Place& place,
          Scratch& scratch) {
  const int64_t width = V * kLanes;
  const int64_t keys = segments.keys;
  for (int64_t key = 0; key < keys; key += 4) {
    outer_product<V>(head.keys + key * size, scratch.queries, size, scratch.scores + key * width);
  }
  softmaxes<V>(segments, place, scratch.scores);
  for (int64_t c = 0; c < size; c += 4) {
    outer_product<V>(head.values + c * keys, scratch.scores, keys, scratch.out + c * width);
  }
}

// Calls body with the number of vectors as a constant.
template <typename Body>
void with_vectors(int64_t vectors, const Body& body) {
  switch (vectors) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
    default:
      return body(std::integral_constant<int, kTileVectors>());
  }
}

// Asks for rows ahead of their use: a head's rows lie apart, out of reach of the hardware's
// prefetch.
template <typename T>
HWY_INLINE void prefetch_rows(const T* rows, int64_t stride, int64_t count, int64_t size) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < count; ++i, rows += stride) {
    for (int64_t c = 0; c < size; c += kLine) hwy::Prefetch(rows + c);
  }
}

// Queries [begin, end) of one head.
template <typename Format>
void attend(const BranchAttentionParams& p, const Segments& segments, const PackedHead& head,
            int64_t b, int64_t h, int64_t begin, int64_t end, Scratch& scratch) {
  using T = typename Format::T;
  const T* q = head_of<T>(p.q, b, h);
  T* out = const_cast<T*>(head_of<T>(p.out, b, h));
  for (int64_t query = begin; query < end;) {
    const int64_t left = end - query;
    const int64_t vectors = HWY_MIN(kTileVectors, (left + kLanes - 1) / kLanes);
    const int64_t width = vectors * kLanes;
    const int64_t count = HWY_MIN(left, width);
    load_queries<Format>(q + query * p.q.token_stride, p.q, count, p.head_size, width, p.scale,
                         scratch);
    prefetch_rows(q + (query + count) * p.q.token_stride, p.q.token_stride,
                  HWY_MIN(left - count, width), p.head_size);
    prefetch_rows(out + query * p.out.token_stride, p.out.token_stride, count, p.head_size);
    with_vectors(vectors, [&](auto v) {
      tile<v()>(segments, head, p.head_size, {query, p.queries}, scratch);
    });
    store_output<Format>(out + query * p.out.token_stride, p.out, count, p.head_size, width,
                         scratch);
    query += count;
  }
}

// The packed heads of the whole batch, row after row.
struct PackedBatch {
  std::vector<Segments> rows;
  std::vector<int64_t> first;  // float of each row's first head
  float* memory = nullptr;
  int64_t size, longest = 0;

  PackedBatch(const BranchAttentionParams& p, Workspace& workspace) : size(p.head_size) {
    int64_t total = 0;
    for (int64_t b = 0; b < p.batch; ++b) {
      rows.push_back(collect_segments(p, b));
      first.push_back(total);
      total += p.heads * PackedHead::floats(rows.back().keys, size);
      longest = HWY_MAX(longest, rows.back().keys);
    }
    memory = workspace.reserve(total);
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
  thread_local Workspace packed_workspace;
  const PackedBatch packed(p, packed_workspace);
  p.parallel_for(p.batch * p.heads, [&](int64_t task, int64_t last) {
    for (; task < last; ++task) {
      const int64_t b = task / p.heads, h = task % p.heads;
      pack<Format>(packed.rows[b], h, p.head_size, packed.head(b, h));
    }
  });

  const int64_t block = 6 * kTileVectors * kLanes;
  const int64_t blocks = (p.queries + block - 1) / block;
  const int64_t wanted = (8 * p.threads + p.batch * blocks - 1) / (p.batch * blocks);
  const int64_t group = (p.heads + wanted - 1) / wanted;
  const int64_t groups = (p.heads + group - 1) / group;
  p.parallel_for(p.batch * blocks * groups, [&](int64_t task, int64_t last) {
    thread_local Workspace workspace;
    Scratch scratch(workspace, packed.longest, p.head_size);
    for (; task < last; ++task) {
      const int64_t b = task / (blocks * groups);
      const int64_t begin = task / groups % blocks * block;
      const int64_t first = task % groups * group;
      for (int64_t h = first; h < HWY_MIN(first + group, p.heads); ++h) {
        attend<Format>(p, packed.rows[b], packed.head(b, h), b, h, begin,
                       HWY_MIN(begin + block, p.queries), scratch);
      }
    }
  });
}

void branch_attention(const BranchAttentionParams& params) {
  switch (params.kind) {
    case ScalarKind::kFloat32:
      return run<Float32>(params);
    case ScalarKind::kFloat16:
      return run<Float16>(params);
    case ScalarKind::kBFloat16:
      return run<BFloat16>(params);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnpatch {

HWY_EXPORT(branch_attention);

void branch_attention_cpu(const BranchAttentionParams& params) {
  if (params.batch * params.heads * params.queries * params.head_size == 0) return;
  HWY_DYNAMIC_DISPATCH(branch_attention)(params);
}

}  // namespace attnpatch
#endif  // HWY_ONCE
