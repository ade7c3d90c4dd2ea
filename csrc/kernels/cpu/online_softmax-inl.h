// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention to any count of keys: queries of a run go through them block by block, with a running
// maximum. A block is packed straight from its rows by the first of the runs that need it, then
// every tile of W queries along the vector lanes takes it in, as
//
//   scores[key][query] = K[key] · Q[query],  weights = 2^(scores - running maximum),
//   out[channel][query] = out · 2^(old - new maximum) + sum over keys of V[key][channel] weights
//
// Queries carry the factor log2(e), so that the exponentials are powers of two. Of a core's L2 the
// run's queries and sums take up to 320 KiB, a block of 128 keys of size 64 takes 64 KiB; the
// scores of W queries stay in L1 (12 KiB with AVX2). Pairs of bf16, of channels and then of keys,
// take half of the space. Included once per instruction set.

#if defined(ATTNPATCH_ONLINE_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_ONLINE_SOFTMAX_INL_H_
#undef ATTNPATCH_ONLINE_SOFTMAX_INL_H_
#else
#define ATTNPATCH_ONLINE_SOFTMAX_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/panels-inl.h"
#include "kernels/cpu/query_tile-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/scores-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Three vectors fill AVX2's 16 registers with twelve sums, three vectors of queries and a key: the
// fewest instructions, which counts where a second thread shares the core. With AVX-512 they leave
// more of the first cache to scores than four.
constexpr int kVectors = kLanes >= 8 ? 3 : 4;
constexpr int64_t kWidth = kVectors * kLanes;  // W
constexpr int64_t kDepth = 80;                 // of a sum of scores
constexpr int64_t kStateFloats = 80 * 1024;    // of a run's queries and sums

// Lines of memory to ask for ahead of their use, a few with each panel of keys, since a core waits
// when it asks for many at a time. Always as many: a loop of unknown length would cost more.
class Requests {
 public:
  template <typename T>
  void add(const T* row, int64_t size) {
    constexpr int64_t kLine = 64 / sizeof(T);
    for (int64_t c = 0; c < size && count_ < kMost; c += kLine) lines_[count_++] = row + c;
  }

  // All are added; what the shares lack is filled up with the last.
  void finish(int64_t shares) {
    if (count_ == 0) add(lines_, 1);
    for (; count_ < shares * kEach; ++count_) lines_[count_] = lines_[count_ - 1];
    count_ = 0;
  }

  HWY_INLINE void send(int64_t share) const {
    for (int64_t i = 0; i < kEach; ++i) {
      hwy::Prefetch(static_cast<const char*>(lines_[share * kEach + i]));
    }
  }

 private:
  static constexpr int64_t kEach = 4, kMost = kBlockKeys / 4 * kEach;
  const void* lines_[kMost];
  int64_t count_ = 0;
};

// One block of keys, packed: keys [key / 4][lane][4], values [channel / 4][key or pair][4].
struct Block {
  float *keys, *values;
  int64_t begin, count;
};

// Queries of a tile, and what they found so far.
struct OnlineTile {
  float *queries, *scores, *top, *sum, *out;
};

// What a head's rows hold: channels of values, what scores are sums over, and channels of a bias.
struct HeadSizes {
  int64_t values;
  ScoreLanes scores;
  float factor;                      // of the scores
  int64_t bias = 0, bias_width = 0;  // the second is the first, rounded up to a multiple of four
};

// The working memory of one thread.
struct State {
  HeadSizes sizes;
  float *queries, *out;  // [tile][lane][W], [tile][channel][W]
  float *top, *sum;      // [tile][W]: running maximum of the scores, sum of the weights
  float* scores;         // [key][W]
  float* rows;           // kLanes rows of row_size, eight at least
  float* packed;         // the blocks of one head
  int64_t row_size, query_size, packed_size;  // of a row, a query, a packed key and its value

  // Queries are written four lanes at a time, and with a bias in two parts.
  State(Arena::Scope& memory, int64_t queries_count, int64_t keys_count, const HeadSizes& of_head)
      : sizes(of_head),
        row_size(round_up(of_head.values, HWY_MAX(kLanes, 4))),
        query_size(
            round_up(of_head.scores.all() + (of_head.scores.biased ? 3 : 0), HWY_MAX(kLanes, 4))),
        packed_size(query_size + row_size) {
    const int64_t tiles = (queries_count + kWidth - 1) / kWidth;
    queries = memory.take(tiles * query_size * kWidth);
    out = memory.take(tiles * row_size * kWidth);
    top = memory.take(tiles * kWidth);
    sum = memory.take(tiles * kWidth);
    scores = memory.take(kBlockKeys * kWidth);
    rows = memory.take(HWY_MAX(kLanes, 8) * row_size);
    packed = memory.take(round_up(keys_count, 4) * packed_size);
  }

  // The tile whose first query is number i.
  OnlineTile tile(int64_t i) const {
    return {queries + i * query_size, scores, top + i, sum + i, out + i * row_size};
  }

  // Where the keys from `begin` on stand, of `all`.
  Block block(int64_t begin, int64_t all) const {
    const int64_t count = HWY_MIN(block_length(all), all - begin);
    float* keys = packed + begin * packed_size;
    return {keys, keys + round_up(count, 4) * query_size, begin, count};
  }
};

// Packs a block of keys. What the last panels lack is the last key once more, which changes no
// maximum and gets no weight.
template <typename Format, typename Keys>
void pack_block(const Block& block, const State& state, const Keys& keys) {
  using Products = typename Format::Products;
  const int64_t size = state.sizes.values, row_size = state.row_size;
  const float *k[4], *v[4], *bias[4];
  for (int64_t key = 0; key < block.count; key += 4) {
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t number = block.begin + HWY_MIN(key + i, block.count - 1);
      const KeyRow<typename Format::T> from = keys.row(number);
      float* copy = state.rows + 2 * i * row_size;
      k[i] = load_lanes<Format>(from.k, from.k_stride, size, copy);
      v[i] = load_lanes<Format>(from.v, from.v_stride, size, copy + row_size);
      bias[i] = keys.bias(number);
    }
    float* panel = block.keys + key * state.sizes.scores.all();
    pack_panel(k, lanes_of<Products>(size), panel);
    pack_panel(bias, state.sizes.bias, panel + 4 * lanes_of<Products>(size));
    pack_values(Products(), v, block.count - key, key, round_up(block.count, 4), size,
                block.values);
  }
}

// The W queries from number i on become a tile.
template <typename Format, int V, typename Queries>
void load_tile(const Queries& queries, int64_t i, const OnlineTile& to, const State& state) {
  constexpr int64_t width = V * kLanes;
  const HeadSizes& sizes = state.sizes;
  const int64_t some = HWY_MIN(width, queries.count() - i);
  const typename Format::T* tokens[width] = {};
  for (int64_t n = 0; n < some; ++n) tokens[n] = queries.row(i + n);
  const TileRows rows{&queries.q(), some, sizes.values, width, state.rows, state.row_size};
  load_rows<Format>(rows, tokens, sizes.factor, to.queries);
  if (sizes.bias == 0) return;
  float* behind = to.queries + lanes_of<typename Format::Products>(sizes.values) * width;
  for (int64_t base = 0; base < width; base += kLanes) {
    const float* channels[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      channels[lane] = queries.bias(i + HWY_MIN(base + lane, some - 1));
    }
    columns_from_rows<FloatProducts>(channels, sizes.bias_width, 1.0f, width, behind + base);
  }
}

// What it found becomes their results.
template <typename Format, int V, typename Queries>
void store_tile(const Queries& queries, int64_t i, const OnlineTile& from, const State& state) {
  constexpr int64_t width = V * kLanes;
  const int64_t some = HWY_MIN(width, queries.count() - i);
  typename Format::T* tokens[width] = {};
  for (int64_t n = 0; n < some; ++n) tokens[n] = queries.result(i + n);
  const TileRows rows{&queries.out(), some, state.sizes.values, width, state.rows, state.row_size};
  store_rows<Format>(rows, from.out, tokens);
}

// One tile of queries takes in one block of keys.
template <int V, typename Products>
void take_in(const Block& block, const HeadSizes& sizes, const OnlineTile& tile,
             const Requests& requests) {
  const FloatTag d;
  float *const scores = tile.scores, *const top = tile.top, *const sum = tile.sum;
  const int64_t count = block.count, size = sizes.values;
  constexpr int64_t n = kLanes, width = V * kLanes;
  FloatVec new_top[V], factor[V], total[V];
  for (int v = 0; v < V; ++v) new_top[v] = hn::Load(d, top + v * n);
  for (int64_t key = 0; key < count; key += 4) {
    requests.send(key / 4);
    score_panel<V, kDepth, Products>(block.keys + key * sizes.scores.all(), tile.queries,
                                     sizes.scores, sizes.factor, scores + key * width, new_top);
  }
  for (int v = 0; v < V; ++v) {
    factor[v] = exp2_nonpositive(hn::Sub(hn::Load(d, top + v * n), new_top[v]));
    total[v] = hn::Mul(hn::Load(d, sum + v * n), factor[v]);
    hn::Store(new_top[v], d, top + v * n);
  }
  sum_weights<V, Products>(count, new_top, scores, total);
  for (int v = 0; v < V; ++v) hn::Store(total[v], d, sum + v * n);
  for (int64_t c = 0; c < size; c += 4) {
    outer_product_sums<V, Products>(block.values + c * lanes_of<Products>(round_up(count, 4)),
                                    scores, lanes_of<Products>(count),
                                    [&](int channel, const FloatVec* sums) HWY_ATTR {
                                      float* to = tile.out + (c + channel) * width;
                                      for (int v = 0; v < V; ++v, to += n) {
                                        const FloatVec before = hn::Load(d, to);
                                        hn::Store(hn::MulAdd(before, factor[v], sums[v]), d, to);
                                      }
                                    });
  }
}

// Before the first block.
template <int V>
void begin_tile(const OnlineTile& tile, const State& state) {
  constexpr int64_t width = V * kLanes;
  std::fill_n(tile.top, width, kNoKey);
  std::fill_n(tile.sum, width, 0.0f);
  std::fill_n(tile.out, width * state.row_size, 0.0f);
}

// After the last: the sums become means, or NaNs where there was no key.
template <int V>
void end_tile(const OnlineTile& tile, const State& state) {
  const FloatTag d;
  constexpr int64_t width = V * kLanes;
  for (int64_t x = 0; x < width; x += kLanes) {
    const auto none = hn::Eq(hn::Load(d, tile.top + x), hn::Set(d, kNoKey));
    const FloatVec factor =
        hn::IfThenElse(none, hn::NaN(d), hn::Div(hn::Set(d, 1.0f), hn::Load(d, tile.sum + x)));
    for (int64_t c = 0; c < state.sizes.values; ++c) {
      float* at = tile.out + c * width + x;
      hn::Store(hn::Mul(hn::Load(d, at), factor), d, at);
    }
  }
}

// Asks for rows needed next: of queries and room for results, from number `begin` to `end`, and of
// keys.
template <typename Queries>
void request_queries(const Queries& queries, int64_t begin, int64_t end, int64_t size,
                     Requests& requests) {
  for (int64_t i = begin; i < HWY_MIN(end, queries.count()); ++i)
    requests.add(queries.row(i), size);
}

template <typename Queries>
void request_results(const Queries& queries, int64_t begin, int64_t end, int64_t size,
                     Requests& requests) {
  for (int64_t i = begin; i < HWY_MIN(end, queries.count()); ++i) {
    requests.add(queries.result(i), size);
  }
}

template <typename Keys>
void request_keys(const Keys& keys, int64_t begin, int64_t end, int64_t size, Requests& requests) {
  for (int64_t i = begin; i < HWY_MIN(end, keys.count()); ++i) {
    requests.add(keys.row(i).k, size);
    requests.add(keys.row(i).v, size);
  }
}

// A run of queries goes through the keys. `packed`: the keys are already. Keys have count(),
// row(i), the KeyRow of key i, and bias(i), its channels; Queries have count(), row(i) and
// result(i), of which q() and out() are the tensors, and bias(i).
template <typename Format, typename Keys, typename Queries>
void attend(const Keys& keys, const Queries& queries, bool packed, const State& state) {
  const int64_t all = keys.count(), length = block_length(all), count = queries.count();
  const int64_t tiles = (count + kWidth - 1) / kWidth, size = state.sizes.values;
  const int64_t share = (length + tiles - 1) / tiles, key_size = state.packed_size;
  Requests requests;

  int64_t begin = 0;
  do {  // once where there is no key
    const Block block = state.block(begin, all);
    const bool first = begin == 0, last = begin + length >= all;
    if (!packed) pack_block<Format>(block, state, keys);
    for (int64_t i = 0; i < count; i += kWidth) {
      // Needed next: the next tile's queries, room for results, a share of the next block's keys.
      const int64_t ahead = length + i / kWidth * share;
      if (first) request_queries(queries, i + kWidth, i + 2 * kWidth, size, requests);
      if (last) request_results(queries, i, i + kWidth, size, requests);
      if (!packed) {
        request_keys(keys, begin + ahead, begin + ahead + share, size, requests);
      } else if (!last) {
        requests.add(block.keys + ahead * key_size, share * key_size);
      }
      requests.finish(length / 4);
      with_vectors<kVectors>((HWY_MIN(kWidth, count - i) + kLanes - 1) / kLanes, [&](auto v) {
        const OnlineTile tile = state.tile(i);
        if (first) {
          load_tile<Format, v()>(queries, i, tile, state);
          begin_tile<v()>(tile, state);
        }
        take_in<v(), typename Format::Products>(block, state.sizes, tile, requests);
        if (last) {
          end_tile<v()>(tile, state);
          store_tile<Format, v()>(queries, i, tile, state);
        }
      });
    }
    begin += length;
  } while (begin < all);
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_ONLINE_SOFTMAX_INL_H_
