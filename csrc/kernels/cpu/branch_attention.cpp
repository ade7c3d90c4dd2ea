// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Strategy: all keys that concern one head (text and branches) stand in one row of scores, so that
// the whole site is two small matrix products around the softmaxes:
//
//   scores[key][query] = K[key] · Q[query],  P = weighted softmaxes over groups of keys,
//   out[channel][query] = sum over keys of V[key][channel] P[key][query]
//
// Queries lie along the vector lanes: maxima, sums and exponentials need no work across lanes, and
// any count of keys is handled without a masked tail. Packed per head, once for all its queries:
//   keys    [key / 4][channel][4]     values  [channel / 4][key][4]
// Per tile of W = 3 or 4 vectors of queries: queries [channel][W], scores [key][W], out
// [channel][W]. For 93 keys of size 64 with AVX2 that is 48 KiB packed, streamed from L2, and 16
// KiB in L1.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/branch_attention.cpp"
#include <hwy/foreach_target.h>
// The order matters: the line above includes this file once per instruction set.
#include <hwy/aligned_allocator.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "kernels/branch_attention.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Vectors in a full tile: as many as the registers hold (see outer_product).
constexpr int kTileVectors = HWY_TARGET == HWY_AVX2 ? 3 : 4;

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// A run of keys in the row of scores: the text or one branch, for one row of the batch.
struct Segment {
  const void *k, *v;
  int64_t k_stride, v_stride, k_channel_stride, v_channel_stride;
  int64_t tokens;
  float weight;
  const float* mask;  // per query, or none
};

// The segments that take part for (b, h); the first `grouped` of them share one softmax.
struct Segments {
  std::vector<Segment> list;
  int64_t grouped = 0;
  int64_t keys = 0;
};

template <typename T>
const T* at(const AttentionView& view, int64_t b, int64_t h) {
  return static_cast<const T*>(view.data) + b * view.batch_stride + h * view.head_stride;
}

template <typename T>
void collect_segments(const BranchAttentionParams& p, int64_t b, int64_t h, Segments& segments) {
  segments.list.clear();
  segments.keys = 0;
  segments.grouped = 0;
  const auto add = [&](const AttentionView& k, const AttentionView& v, int64_t row, int64_t tokens,
                       float weight, const float* mask) {
    segments.list.push_back({at<T>(k, row, h), at<T>(v, row, h), k.token_stride, v.token_stride,
                             k.channel_stride, v.channel_stride, tokens, weight, mask});
    segments.keys += tokens;
  };
  if (p.text_tokens > 0) add(p.k, p.v, b, p.text_tokens, 1.0f, nullptr);
  const auto count = static_cast<int64_t>(p.branches.size());
  for (int64_t i = 0; i < count; ++i) {
    if (i == p.joint) segments.grouped = static_cast<int64_t>(segments.list.size());
    const AttentionBranch& branch = p.branches[i];
    if (branch.rows[b] < 0 || branch.weights[b] == 0.0f || branch.tokens == 0) continue;
    add(branch.k, branch.v, branch.rows[b], branch.tokens, branch.weights[b],
        branch.mask ? branch.mask + b * branch.mask_batch_stride : nullptr);
  }
  if (p.joint == count) segments.grouped = static_cast<int64_t>(segments.list.size());
}

// The working memory of one thread, reused from call to call.
struct Scratch {
  hwy::AlignedFreeUniquePtr<float[]> memory;
  int64_t capacity = 0;
  float *keys, *values, *queries, *scores, *out, *blocks, *row, *rows;

  // Lays out the areas for `key_count` keys of `size` channels; all are multiples of whole vectors.
  void reserve(int64_t key_count, int64_t size) {
    const int64_t vector = lanes();
    const int64_t width = kTileVectors * vector;
    const int64_t channels = round_up(size, HWY_MAX(4, vector));
    const int64_t key_rows = round_up(key_count, 4);
    const int64_t parts[] = {key_rows * channels,   channels * key_rows, channels * width,
                             key_rows * width,      channels * width,    channels * vector,
                             4 * channels + vector, width * channels};
    int64_t total = 0;
    for (const int64_t part : parts) total += round_up(part, 16);
    if (total > capacity) {
      memory = hwy::AllocateAligned<float>(static_cast<size_t>(total));
      if (!memory) throw std::bad_alloc();
      capacity = total;
    }
    float* next = memory.get();
    float** areas[] = {&keys, &values, &queries, &scores, &out, &blocks, &row, &rows};
    for (size_t i = 0; i < std::size(parts); ++i) {
      *areas[i] = next;
      next += round_up(parts[i], 16);
    }
  }
};

// One head's keys and values, packed. `first` is the segment's first key.
template <typename Format>
void pack_segment(const Segment& s, int64_t first, int64_t keys, int64_t size, Scratch& scratch) {
  using T = typename Format::T;
  const int64_t size4 = round_up(size, 4);
  const int64_t row_size = round_up(size, HWY_MAX(4, lanes()));
  const auto* k = static_cast<const T*>(s.k);
  const auto* v = static_cast<const T*>(s.v);
  for (int64_t t = 0; t < s.tokens; ++t) {
    const int64_t key = first + t;
    const float* row = load_row<Format>(k + t * s.k_stride, s.k_channel_stride, size, scratch.row);
    float* panel = scratch.keys + (key / 4) * 4 * size + key % 4;
    for (int64_t c = 0; c < size; ++c) panel[4 * c] = row[c];

    row = load_row<Format>(v + t * s.v_stride, s.v_channel_stride, size, scratch.row + row_size);
    float* column = scratch.values + 4 * key;
    int64_t c = 0;
    for (; c + 4 <= size; c += 4) copy4(row + c, column + c * keys);
    for (; c < size4; ++c) column[(c / 4 * 4) * keys + c % 4] = c < size ? row[c] : 0.0f;
  }
}

template <typename Format>
void pack(const Segments& segments, int64_t size, Scratch& scratch) {
  const int64_t keys = segments.keys;
  if (keys % 4 != 0) {  // the last panel's missing keys
    std::memset(scratch.keys + keys / 4 * 4 * size, 0, sizeof(float) * 4 * size);
  }
  int64_t first = 0;
  for (const Segment& s : segments.list) {
    pack_segment<Format>(s, first, keys, size, scratch);
    first += s.tokens;
  }
}

// queries[channel][W], times the factor; queries past the last are zero.
template <typename Format>
void load_queries(const typename Format::T* q, const AttentionView& view, int64_t count,
                  int64_t size, int64_t width, float factor, Scratch& scratch) {
  const int64_t n = lanes();
  const int64_t size4 = round_up(size, 4);
  for (int64_t base = 0; base < width; base += n) {
    for (int64_t lane = 0; lane < n; ++lane) {
      float* block = scratch.blocks + 4 * lane;  // [channel / 4][lane][4]
      if (base + lane >= count) {
        for (int64_t c = 0; c < size4; c += 4) std::memset(block + c * n, 0, 4 * sizeof(float));
        continue;
      }
      const float* row = load_row<Format>(q + (base + lane) * view.token_stride,
                                          view.channel_stride, size, scratch.row);
      int64_t c = 0;
      for (; c + 4 <= size; c += 4) copy4(row + c, block + c * n);
      for (; c < size4; ++c) block[(c / 4 * 4) * n + c % 4] = c < size ? row[c] : 0.0f;
    }
    for (int64_t c = 0; c < size4; c += 4) {
      columns_from_blocks(scratch.blocks + c * n, factor, width,
                          scratch.queries + c * width + base);
    }
  }
}

template <typename Format>
void store_output(typename Format::T* out, const AttentionView& view, int64_t count, int64_t size,
                  int64_t width, Scratch& scratch) {
  const int64_t n = lanes();
  for (int64_t base = 0; base < count; base += n) {
    for (int64_t c = 0; c < size; c += 4) {
      blocks_from_columns(scratch.out + c * width + base, width, scratch.blocks + c * n);
    }
    for (int64_t lane = 0; lane < HWY_MIN(n, count - base); ++lane) {
      for (int64_t c = 0; c < size; c += 4) {
        copy4(scratch.blocks + c * n + 4 * lane, scratch.row + c);
      }
      store_row<Format>(scratch.row, size, out + (base + lane) * view.token_stride,
                        view.channel_stride);
    }
  }
}

// The mask's value of one vector of queries; 1 without a mask. `count` queries are left.
HWY_INLINE FloatVec load_mask(const float* mask, int64_t count) {
  const FloatTag d;
  if (mask == nullptr) return hn::Set(d, 1.0f);
  if (count >= lanes()) return hn::LoadU(d, mask);
  HWY_ALIGN float part[kMaxLanes] = {};
  std::memcpy(part, mask, sizeof(float) * static_cast<size_t>(HWY_MAX(count, int64_t{0})));
  return hn::Load(d, part);
}

// The softmax of one vector of queries over the keys of segments [begin, end), in place. The weight
// and mask multiply the exponentials in a group of several, and the whole result of a branch on its
// own.
void softmax_group(const Segments& segments, int64_t begin, int64_t end, int64_t first,
                   int64_t query, int64_t queries, int64_t width, float* scores) {
  const FloatTag d;
  int64_t keys = 0;
  for (int64_t i = begin; i < end; ++i) keys += segments.list[i].tokens;
  scores += first * width;

  FloatVec top = hn::Load(d, scores);
  for (int64_t key = 1; key < keys; ++key) top = hn::Max(top, hn::Load(d, scores + key * width));

  const bool own = end - begin == 1;
  FloatVec sum = hn::Zero(d);
  float* row = scores;
  for (int64_t i = begin; i < end; ++i) {
    const Segment& s = segments.list[i];
    const FloatVec share =
        own ? hn::Set(d, 1.0f)
            : hn::Mul(hn::Set(d, s.weight),
                      load_mask(s.mask ? s.mask + query : nullptr, queries - query));
    for (int64_t t = 0; t < s.tokens; ++t, row += width) {
      const FloatVec e = hn::Mul(share, exp2_nonpositive(hn::Sub(hn::Load(d, row), top)));
      sum = hn::Add(sum, e);
      hn::Store(e, d, row);
    }
  }
  FloatVec factor = hn::Div(hn::Set(d, 1.0f), sum);
  if (own) {
    const Segment& s = segments.list[begin];
    const FloatVec mask = load_mask(s.mask ? s.mask + query : nullptr, queries - query);
    factor = hn::Mul(factor, hn::Mul(hn::Set(d, s.weight), mask));
  }
  row = scores;
  for (int64_t key = 0; key < keys; ++key, row += width) {
    hn::Store(hn::Mul(hn::Load(d, row), factor), d, row);
  }
}

void softmaxes(const Segments& segments, int64_t query, int64_t queries, int64_t width,
               float* scores) {
  const auto total = static_cast<int64_t>(segments.list.size());
  int64_t begin = 0, first = 0;
  while (begin < total) {
    const int64_t end = begin < segments.grouped ? segments.grouped : begin + 1;
    softmax_group(segments, begin, end, first, query, queries, width, scores);
    for (; begin < end; ++begin) first += segments.list[begin].tokens;
  }
}

template <int V>
void tile(const Segments& segments, int64_t size, int64_t query, int64_t queries,
          Scratch& scratch) {
  const int64_t width = V * lanes();
  const int64_t keys = segments.keys;
  for (int64_t key = 0; key < keys; key += 4) {
    outer_product<V>(scratch.keys + key * size, scratch.queries, size, width,
                     scratch.scores + key * width);
  }
  for (int64_t v = 0; v < V; ++v) {
    softmaxes(segments, query + v * lanes(), queries, width, scratch.scores + v * lanes());
  }
  for (int64_t c = 0; c < size; c += 4) {
    outer_product<V>(scratch.values + c * keys, scratch.scores, keys, width,
                     scratch.out + c * width);
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

// Queries [begin, end) of one head whose keys are packed.
template <typename Format>
void attend(const BranchAttentionParams& p, const Segments& segments, int64_t b, int64_t h,
            int64_t begin, int64_t end, Scratch& scratch) {
  using T = typename Format::T;
  const T* q = at<T>(p.q, b, h);
  T* out = const_cast<T*>(at<T>(p.out, b, h));
  // exp(x) = 2^(x log2 e): the factor goes into the queries.
  const float factor = p.scale * 1.44269504089f;
  for (int64_t query = begin; query < end;) {
    const int64_t left = end - query;
    const int64_t vectors = HWY_MIN(kTileVectors, (left + lanes() - 1) / lanes());
    const int64_t width = vectors * lanes();
    const int64_t count = HWY_MIN(left, width);
    load_queries<Format>(q + query * p.q.token_stride, p.q, count, p.head_size, width, factor,
                         scratch);
    with_vectors(vectors, [&](auto v) { tile<v()>(segments, p.head_size, query, end, scratch); });
    store_output<Format>(out + query * p.out.token_stride, p.out, count, p.head_size, width,
                         scratch);
    query += count;
  }
}

template <typename Format>
void run(const BranchAttentionParams& p) {
  // Parts of a head's queries, so that there is work for every thread but packing stays cheap.
  const int64_t heads = p.batch * p.heads;
  const int64_t smallest = 4 * kTileVectors * lanes();
  const int64_t wanted = heads >= 2 * p.threads ? 1 : (4 * p.threads + heads - 1) / heads;
  const int64_t parts = HWY_MAX(1, HWY_MIN(wanted, p.queries / smallest));
  const int64_t part = round_up((p.queries + parts - 1) / parts, kTileVectors * lanes());

  p.parallel_for(heads * parts, [&](int64_t task, int64_t last) {
    thread_local Scratch scratch;
    Segments segments;
    int64_t packed = -1;
    for (; task < last; ++task) {
      const int64_t head = task / parts;
      const int64_t b = head / p.heads, h = head % p.heads;
      const int64_t begin = HWY_MIN(task % parts * part, p.queries);
      if (head != packed) {
        collect_segments<typename Format::T>(p, b, h, segments);
        scratch.reserve(segments.keys, p.head_size);
        pack<Format>(segments, p.head_size, scratch);
        packed = head;
      }
      attend<Format>(p, segments, b, h, begin, HWY_MIN(begin + part, p.queries), scratch);
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
