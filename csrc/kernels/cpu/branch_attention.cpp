// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Strategy: queries lie along the vector lanes, so that maxima, sums and exponentials need no work
// across lanes, and any count of keys is handled without a masked tail. A tile of W = 2 or 4
// vectors of queries goes through the softmaxes of its site, the text's and each branch's, one
// after the other, in blocks of at most 128 keys:
//
//   scores[key][query] = K[key] · Q[query],  weights = 2^(scores - running maximum),
//   part[channel][query] = part · 2^(old - new maximum) + sum over keys of V[key][channel] weights
//
// and after a softmax's last block out += factor / sum of the weights · part. Most have one block
// alone, which needs no part. A task is a block of queries with some heads, as many as have packed
// keys and values in half of L2: the heads' rows of one query lie side by side in memory, so going
// through heads inside a block keeps its pages at hand. For 93 keys of size 64 a head is 48 KiB
// packed; with AVX2 a tile works in 16 KiB of L1.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/branch_attention.cpp"
#include <hwy/foreach_target.h>
// The order matters: the line above includes this file once per instruction set.
#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/branch_attention.h"
#include "kernels/cpu/arena.h"
#include "kernels/cpu/packed_keys-inl.h"
#include "kernels/cpu/query_tile-inl.h"
#include "kernels/cpu/scores-inl.h"
#include "kernels/cpu/task_lots.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kDepth = 40;  // of a sum of scores

inline Segments collect_segments(const BranchAttentionParams& p, int64_t b) {
  Segments segments;
  if (p.keys > 0) segments.add({&p.k, &p.v, b, p.keys, 1.0f, nullptr});
  const auto count = static_cast<int64_t>(p.branches.size());
  for (int64_t i = 0; i <= count; ++i) {
    if (i == p.shared_softmax) segments.grouped = static_cast<int64_t>(segments.list.size());
    if (i == count) break;
    const AttentionBranch& branch = p.branches[i];
    if (branch.rows[b] < 0 || branch.weights[b] == 0.0f || branch.tokens == 0) continue;
    segments.add({&branch.k, &branch.v, branch.rows[b], branch.tokens, branch.weights[b],
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

// What a segment's weight and mask make of a tile's queries.
template <int V>
struct Factors {
  FloatVec value[V];
  hn::Mask<FloatTag> off[V];  // nothing of the segment is to arrive

  Factors(const Segment& s, const Place& place, bool shared) {
    const FloatTag d;
    for (int v = 0; v < V; ++v) {
      value[v] = factor_of(s, place, v);
      off[v] = hn::Eq(value[v], hn::Zero(d));
      if (shared) value[v] = share_of(value[v]);
    }
  }
};

// A softmax on its way through its keys, for V vectors of queries.
template <int V>
struct Softmax {
  FloatVec top[V], sum[V];  // running maximum of the scores, sum of the weights
  FloatVec fade[V];         // takes what came before the last block to the new maximum

  Softmax() {
    const FloatTag d;
    for (int v = 0; v < V; ++v) {
      top[v] = hn::Set(d, kNoKey);
      sum[v] = hn::Zero(d);
    }
  }
};

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
    make_weights<V, Products>(
        block.count, scores, softmax.sum, [&](int v, FloatVec score) HWY_ATTR {
          const FloatVec weight = Products::exp2(hn::Sub(score, softmax.top[v]));
          return hn::IfThenZeroElse(factors->off[v], hn::Mul(weight, factors->value[v]));
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
};

template <int V, typename Site>
HWY_INLINE void add_values(const Site& site, const KeyBlock& block, const Destination<V>& to) {
  using Products = typename Site::Products;
  const FloatTag d;
  constexpr int64_t width = V * kLanes;
  for (int64_t c = 0; c < site.size; c += 4) {
    outer_product_sums<V, Products>(
        site.head.values_from(block.first, c), site.scratch->scores,
        lanes_of<Products>(block.count), [&](int row, const FloatVec* sum) HWY_ATTR {
          float* part = site.scratch->part + (c + row) * width;
          float* out = site.scratch->out + (c + row) * width;
          for (int v = 0; v < V; ++v, part += kLanes, out += kLanes) {
            FloatVec x = to.off != nullptr ? hn::IfThenZeroElse(to.off[v], sum[v]) : sum[v];
            if (!to.first) x = hn::MulAdd(hn::Load(d, part), to.fade[v], x);
            if (!to.last) {
              hn::Store(x, d, part);
              continue;
            }
            x = hn::Mul(x, to.share[v]);
            if (to.cut != nullptr) x = hn::IfThenZeroElse(to.cut[v], x);
            hn::Store(to.more ? hn::Add(hn::Load(d, out), x) : x, d, out);
          }
        });
  }
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
    key += round_up(s.tokens, 4);
  }
}

template <int V, typename Site>
void tile(const Site& site) {
  const Segments& segments = *site.segments;
  const auto total = static_cast<int64_t>(segments.list.size());
  if (total == 0) std::fill_n(site.scratch->out, round_up(site.size, 4) * V * kLanes, 0.0f);
  int64_t key = 0;
  for (int64_t begin = 0; begin < total;) {
    const int64_t end = begin < segments.grouped ? segments.grouped : begin + 1;
    add_softmax<V>(site, begin, end, key);
    for (; begin < end; ++begin) key += round_up(segments.list[begin].tokens, 4);
  }
}

// How the work is cut: a lot is one row of the batch with a group of heads of keys, a task a block
// of its queries. Groups have packed keys in half of L2, and are enough of them for all threads.
struct Cut {
  static constexpr int64_t kBlock = 6 * kTileVectors * kLanes;  // queries
  static constexpr int64_t kPackedFloats = 128 << 10;

  std::vector<Segments> rows;  // of the batch
  int64_t most_keys = 0, workers, group, groups, blocks;

  // `head_floats(keys)` are those of a packed head.
  template <typename HeadFloats>
  Cut(const BranchAttentionParams& p, const HeadFloats& head_floats) {
    int64_t keys = 0;
    for (int64_t b = 0; b < p.batch; ++b) {
      rows.push_back(collect_segments(p, b));
      keys += rows.back().keys;
      most_keys = HWY_MAX(most_keys, rows.back().keys);
    }
    workers = useful_threads(p, 2 * p.heads * p.queries * p.head_size * keys);
    const int64_t fitting = kPackedFloats / HWY_MAX(head_floats(most_keys), int64_t{1});
    const int64_t sharing = p.batch * p.kv_heads / workers;
    group = std::clamp(HWY_MIN(fitting, sharing), int64_t{1}, p.kv_heads);
    groups = (p.kv_heads + group - 1) / group;
    blocks = (p.queries + kBlock - 1) / kBlock;
  }
};

// One thread's work: packs a lot's keys and values when it first takes a task of it.
template <typename Format>
class LotWork {
 public:
  using Head = PackedHead<typename Format::Products>;

  LotWork(const BranchAttentionParams& p, const Cut& cut, Arena::Scope& memory)
      : p_(p),
        cut_(cut),
        head_floats_(Head::floats(cut.most_keys, p.head_size)),
        packed_(memory.take(cut.group * head_floats_)),
        scratch_(memory, HWY_MIN(cut.most_keys, kBlockKeys), p.head_size) {}

  void run(int64_t task) {
    const int64_t lot = task / cut_.blocks, b = lot / cut_.groups;
    const int64_t first = lot % cut_.groups * cut_.group;
    const int64_t last = HWY_MIN(first + cut_.group, p_.kv_heads);
    if (lot != lot_) {
      for (int64_t h = first; h < last; ++h)
        pack<Format>(cut_.rows[b], h, p_.head_size, head(b, h));
      lot_ = lot;
    }
    const int64_t begin = task % cut_.blocks * Cut::kBlock;
    const int64_t end = HWY_MIN(begin + Cut::kBlock, p_.queries);
    for (int64_t h = first * p_.group(); h < last * p_.group(); ++h) {
      const HeadQueries queries{
          &p_.q, &p_.out, b, h, begin, end, p_.head_size, p_.scale * kLog2E, cut_.rows[b].keys / 4};
      for_each_tile<Format>(queries, scratch_, [&](auto v, int64_t query, int64_t) {
        tile<v()>(Site<typename Format::Products>{&cut_.rows[b],
                                                  head(b, p_.kv_head(h)),
                                                  p_.head_size,
                                                  queries.factor,
                                                  {query, p_.queries},
                                                  &scratch_});
      });
    }
  }

 private:
  Head head(int64_t b, int64_t kv_head) const {
    return {packed_ + kv_head % cut_.group * head_floats_, cut_.rows[b].keys, p_.head_size};
  }

  const BranchAttentionParams& p_;
  const Cut& cut_;
  int64_t head_floats_;
  float* packed_;
  Scratch scratch_;
  int64_t lot_ = -1;
};

template <typename Format>
void run(const BranchAttentionParams& p) {
  const Cut cut(p, [&](int64_t keys) {
    return PackedHead<typename Format::Products>::floats(keys, p.head_size);
  });
  TaskLots lots(p.batch * cut.groups, cut.blocks, cut.workers);
  run_workers(p, lots, [&](TaskLots::Worker& worker) {
    Arena::Scope memory(thread_arena());
    LotWork<Format> work(p, cut, memory);
    for (int64_t task; (task = worker.take()) >= 0;) work.run(task);
  });
}

void branch_attention(const BranchAttentionParams& params) {
  with_products(params.dtype, [&]<class Format>() { run<Format>(params); });
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
