// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Text and image prompts by vectors: queries lie along the lanes, so that maxima, sums and
// exponentials need no work across lanes, and any count of keys is handled without a masked tail. A
// tile of W = 2 or 4 vectors of queries goes through the softmaxes of its site, the text's and each
// branch's, one after the other, in blocks of at most 128 keys:
//
//   scores[key][query] = K[key] · Q[query],  weights = 2^(scores - running maximum),
//   part[channel][query] = part · 2^(old - new maximum) + sum over keys of V[key][channel] weights
//
// and after a softmax's last block out += factor / sum of the weights · part. Most have one block
// alone, which needs no part. For 93 keys of size 64 a head is 48 KiB packed; with AVX2 a tile
// works in 16 KiB of L1. Included once per instruction set.

#if defined(ATTNPATCH_BRANCH_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_BRANCH_VECTORS_INL_H_
#undef ATTNPATCH_BRANCH_VECTORS_INL_H_
#else
#define ATTNPATCH_BRANCH_VECTORS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/branch_factors-inl.h"
#include "kernels/cpu/packed_keys-inl.h"
#include "kernels/cpu/products-inl.h"
#include "kernels/cpu/query_tile-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/scores-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kDepth = 40;  // of a sum of scores

// What a tile of queries attends to, and where it works.
template <typename P>
struct Site {
  using Products = P;
  const Segments* segments;
  PackedHead<Products> head;
  int64_t size;
  float factor;  // of the scores
  Place place;
  Scratch* scratch;
};

// Keys of a segment in packed panels, `first` being the place of their first.
struct KeyBlock {
  int64_t first, count;
};

// The weights of a block of keys, into scratch.scores. With factors the segment shares its softmax:
// nothing of its keys counts where they are off, neither as the largest score nor as a NaN.
template <int V, typename Site>
HWY_INLINE void weigh(const Site& site, const KeyBlock& block, const Factors<V>* factors,
                      Softmax<V>& softmax) {
  using Products = typename Site::Products;
  const FloatTag d;
  float* const scores = site.scratch->scores;
  const auto lanes = ScoreLanes::of<Products>(site.size);
  FloatVec largest[V];
  for (int v = 0; v < V; ++v) largest[v] = hn::Set(d, kNoKey);
  for (int64_t key = 0; key < block.count; key += 4) {
    score_panel<V, kDepth, Products>(site.head.keys_from(block.first + key), site.scratch->queries,
                                     lanes, site.factor, scores + key * V * kLanes, largest);
    site.scratch->send_requests();
  }
  for (int v = 0; v < V; ++v) {
    if (factors != nullptr) {
      largest[v] = hn::IfThenElse(factors->off[v], hn::Set(d, kNoKey), largest[v]);
    }
    const FloatVec before = softmax.top[v];
    softmax.top[v] = hn::Max(before, largest[v]);
    softmax.fade[v] = exp2_nonpositive(hn::Sub(before, softmax.top[v]));
    softmax.sum[v] = hn::Mul(softmax.sum[v], softmax.fade[v]);
  }
  if (factors != nullptr) {
    make_weights<V, Products>(block.count, scores, softmax.sum, [&](auto& x) HWY_ATTR {
      exp2_below<V, Products>(softmax.top, x);
      for (int i = 0; i < static_cast<int>(std::size(x)); ++i) {
        x[i] = hn::Mul(x[i], factors->value[i % V]);
        x[i] = hn::IfThenZeroElse(factors->off[i % V], x[i]);
      }
    });
  } else {
    sum_weights<V, Products>(block.count, softmax.top, scores, softmax.sum);
  }
}

// What a softmax's sums are multiplied by in the end: the factor of a branch on its own, over the
// sum of its weights. Not a number where there was no key.
template <int V>
HWY_INLINE void finish(const Softmax<V>& softmax, const Factors<V>* factors, FloatVec* share) {
  const FloatTag d;
  for (int v = 0; v < V; ++v) {
    const FloatVec factor = factors != nullptr ? factors->value[v] : hn::Set(d, 1.0f);
    const auto none = hn::Eq(softmax.top[v], hn::Set(d, kNoKey));
    share[v] = hn::IfThenElse(none, hn::NaN(d), hn::Div(factor, softmax.sum[v]));
  }
}

// Where a block's product with the values goes.
template <int V>
struct Destination {
  bool first, last;  // of its softmax
  bool more;         // the result has other softmaxes' terms
  const FloatVec *fade, *share;
  const hn::Mask<FloatTag>* off;  // where nothing of the block is to arrive, or none
  const hn::Mask<FloatTag>* cut;  // where nothing of the whole softmax is, or none

  bool plain() const { return first && last && off == nullptr && cut == nullptr; }

  // The result of a whole softmax's sum, on top of what stands in the result; a mask of ones
  // changes no bit.
  HWY_INLINE FloatVec result(int v, FloatVec sum, FloatVec before) const {
    return more ? hn::MulAdd(sum, share[v], before) : hn::Mul(sum, share[v]);
  }
};

// The products, handed row by row to put(row of [channel][W], its sums).
template <int V, typename Site, typename Put>
HWY_INLINE void each_value(const Site& site, const KeyBlock& block, const Put& put) {
  using Products = typename Site::Products;
  for (int64_t c = 0; c < site.size; c += 4) {
    outer_product_sums<V, Products>(site.head.values_from(block.first, c), site.scratch->scores,
                                    lanes_of<Products>(block.count),
                                    [&](int row, const FloatVec* sum)
                                        HWY_ATTR { put((c + row) * V * kLanes, sum); });
  }
}

// Most blocks are a whole softmax that all queries see: so they are written without a question.
template <int V, typename Site>
HWY_INLINE void add_values(const Site& site, const KeyBlock& block, const Destination<V>& to) {
  const FloatTag d;
  float* const outs = site.scratch->out;
  if (to.plain()) {
    return each_value<V>(site, block, [&](int64_t at, const FloatVec* sum) HWY_ATTR {
      for (int v = 0; v < V; ++v) {
        float* out = outs + at + v * kLanes;
        hn::Store(to.result(v, sum[v], to.more ? hn::Load(d, out) : hn::Zero(d)), d, out);
      }
    });
  }
  each_value<V>(site, block, [&](int64_t at, const FloatVec* sum) HWY_ATTR {
    float* part = site.scratch->part + at;
    float* out = outs + at;
    for (int v = 0; v < V; ++v, part += kLanes, out += kLanes) {
      FloatVec x = to.off != nullptr ? hn::IfThenZeroElse(to.off[v], sum[v]) : sum[v];
      if (!to.first) x = hn::MulAdd(hn::Load(d, part), to.fade[v], x);
      if (!to.last) {
        hn::Store(x, d, part);
        continue;
      }
      const FloatVec before = to.more ? hn::Load(d, out) : hn::Zero(d);
      x = to.result(v, x, before);
      if (to.cut != nullptr) x = hn::IfThenElse(to.cut[v], before, x);
      hn::Store(x, d, out);
    }
  });
}

// One softmax over the keys of segments [begin, end), the first of which stands at `key`.
template <int V, typename Site>
void add_softmax(const Site& site, int64_t begin, int64_t end, int64_t key) {
  const bool shared = begin < site.segments->grouped;
  Softmax<V> softmax;
  FloatVec share[V];
  for (int64_t i = begin; i < end; ++i) {
    const Segment& s = site.segments->list[i];
    const Factors<V> factors(s, site.place, shared);
    const bool whole = s.weight == 1.0f && s.mask == nullptr;
    const int64_t length = block_length(s.tokens);
    for (int64_t t = 0; t < s.tokens; t += length) {
      const KeyBlock block{key + t, HWY_MIN(length, s.tokens - t)};
      const bool last = i + 1 == end && t + length >= s.tokens;
      weigh<V>(site, block, shared && !whole ? &factors : nullptr, softmax);
      if (last) finish<V>(softmax, shared ? nullptr : &factors, share);
      const Destination<V> to{i == begin && t == 0,
                              last,
                              begin > 0,
                              softmax.fade,
                              share,
                              shared && !whole ? factors.off : nullptr,
                              shared || whole ? nullptr : factors.off};
      add_values<V>(site, block, to);
    }
    key += site.segments->packed(s);
  }
}

template <int V, typename Site>
void attend_tile(const Site& site) {
  const Segments& segments = *site.segments;
  const auto total = static_cast<int64_t>(segments.list.size());
  if (total == 0) std::fill_n(site.scratch->out, round_up(site.size, 4) * V * kLanes, 0.0f);
  int64_t key = 0;
  for (int64_t begin = 0; begin < total;) {
    const int64_t end = begin < segments.grouped ? segments.grouped : begin + 1;
    add_softmax<V>(site, begin, end, key);
    for (; begin < end; ++begin) key += segments.packed(segments.list[begin]);
  }
}

// One thread's way to attend: its working memory, and a head's keys packed for it.
template <typename Format>
class VectorBranches {
 public:
  using Products = typename Format::Products;
  static constexpr int64_t kPanel = 4;

  static int64_t head_floats(int64_t keys, int64_t size) {
    return PackedHead<Products>::floats(keys, size);
  }

  VectorBranches(Arena::Scope& memory, int64_t most_keys, int64_t size)
      : scratch_(memory, HWY_MIN(most_keys, kBlockKeys), size), size_(size) {}

  void pack(const Segments& segments, int64_t h, float* head) {
    kernels::HWY_NAMESPACE::pack<Format>(segments, h, size_, {head, segments.keys, size_});
  }

  // `all`: the queries of the row of the batch.
  void attend(const HeadQueries& queries, int64_t all, const Segments& segments, float* head) {
    for_each_tile<Format>(queries, scratch_, [&](auto v, int64_t query, int64_t) {
      attend_tile<v()>(Site<Products>{
          &segments, {head, segments.keys, size_}, size_, queries.factor, {query, all}, &scratch_});
    });
  }

 private:
  Scratch scratch_;
  int64_t size_;
};

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_BRANCH_VECTORS_INL_H_
