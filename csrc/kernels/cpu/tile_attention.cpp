// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Strategy: a task is a run of one tile's queries with one head. It goes through the keys, the
// tile's own and then the shared ones, in blocks: a block is packed straight from its rows by the
// first of the tasks that need it, then every tile of W queries along the vector lanes takes it in,
// as
//
//   scores[key][query] = K[key] · Q[query],  weights = 2^(scores - running maximum),
//   out[channel][query] = out · 2^(old - new maximum) + sum over keys of V[key][channel] weights
//
// Nothing but views: no tile is gathered, padded or put back. Queries carry the factor log2(e), so
// that the exponentials are powers of two. Of a core's L2 the run's queries and sums take up to 320
// KiB, a block of 128 keys of size 64 takes 64 KiB; the scores of W queries stay in L1 (12 KiB with
// AVX2).

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tile_attention.cpp"
#include <hwy/foreach_target.h>
// The order matters: the line above includes this file once per instruction set.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/panels-inl.h"
#include "kernels/cpu/query_tile-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/scores-inl.h"
#include "kernels/cpu/vector_math-inl.h"
#include "kernels/tile_attention.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Three vectors fill AVX2's 16 registers with twelve sums, three vectors of queries and a key: the
// fewest instructions, which counts where a second thread shares the core.
constexpr int kVectors = HWY_TARGET == HWY_AVX2 ? 3 : 4;
constexpr int64_t kWidth = kVectors * kLanes;  // W
constexpr int64_t kBlockKeys = 128;
constexpr int64_t kDepth = 80;               // of a sum of scores
constexpr int64_t kStateFloats = 80 * 1024;  // of a run's queries and sums

// Where a tile's token stands in the grid. Its number fits in 32 bits, whose division is quicker.
HWY_INLINE int64_t grid_token(const Tiling& tiling, const Rectangle& tile, int64_t i) {
  const auto number = static_cast<uint32_t>(i), width = static_cast<uint32_t>(tile.width);
  return (tile.top + number / width) * tiling.width + tile.left + number % width;
}

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

// The keys and values of one tile and head: own ones first, then those that all tiles share.
template <typename T>
struct Keys {
  const TileAttentionParams* p;
  Rectangle tile;
  int64_t first = 0, own = 0;
  const T *k, *v, *shared_k, *shared_v;

  Keys(const TileAttentionParams& params, int64_t index, int64_t b, int64_t h)
      : p(&params),
        tile(params.tiling.tile(index)),
        k(head_of<T>(params.k, b, h)),
        v(head_of<T>(params.v, b, h)),
        shared_k(head_of<T>(params.shared_k, b, h)),
        shared_v(head_of<T>(params.shared_v, b, h)) {
    const std::vector<int64_t>& starts = params.starts;
    own = starts.empty() ? tile.tokens() : starts[index + 1] - starts[index];
    first = starts.empty() ? 0 : starts[index];
  }

  int64_t count() const { return own + p->shared_tokens; }

  // A key's row and its value's, and how far their channels lie apart.
  struct Row {
    const T *k, *v;
    int64_t k_stride, v_stride;
  };
  Row row(int64_t i) const {
    const bool is_own = i < own;
    const AttentionView& k_view = is_own ? p->k : p->shared_k;
    const AttentionView& v_view = is_own ? p->v : p->shared_v;
    const int64_t token = !is_own             ? i - own
                          : p->starts.empty() ? grid_token(p->tiling, tile, i)
                                              : first + i;
    return {(is_own ? k : shared_k) + token * k_view.token_stride,
            (is_own ? v : shared_v) + token * v_view.token_stride, k_view.channel_stride,
            v_view.channel_stride};
  }

  void request(int64_t begin, int64_t end, Requests& requests) const {
    for (int64_t i = begin; i < HWY_MIN(end, count()); ++i) {
      requests.add(row(i).k, p->head_size);
      requests.add(row(i).v, p->head_size);
    }
  }
};

// How many keys a block has: all of a head's blocks have the same length, but for the last.
constexpr int64_t block_length(int64_t keys) {
  const int64_t blocks = (keys + kBlockKeys - 1) / kBlockKeys;
  return round_up((keys + blocks - 1) / blocks, 4);
}

// One block of keys, packed: keys [key / 4][channel][4], values [channel / 4][key][4].
struct Block {
  float *keys, *values;
  int64_t begin, count;
};

// Queries of a tile, and what they found so far.
struct OnlineTile {
  const float* queries;
  float *scores, *top, *sum, *out;
};

// The working memory of one thread.
struct State {
  float *queries, *out;           // [tile][channel][W]
  float *top, *sum;               // [tile][W]: running maximum of the scores, sum of the weights
  float* scores;                  // [key][W]
  float* rows;                    // kLanes rows, eight at least
  float* packed;                  // the blocks of one head
  int64_t row_size, packed_size;  // of a row; of a packed key and its value

  State(Arena::Scope& memory, int64_t queries_count, int64_t keys_count, int64_t size)
      : row_size(round_up(size, HWY_MAX(kLanes, 4))), packed_size(2 * row_size) {
    const int64_t tiles = (queries_count + kWidth - 1) / kWidth;
    queries = memory.take(tiles * row_size * kWidth);
    out = memory.take(tiles * row_size * kWidth);
    top = memory.take(tiles * kWidth);
    sum = memory.take(tiles * kWidth);
    scores = memory.take(kBlockKeys * kWidth);
    rows = memory.take(HWY_MAX(kLanes, 8) * row_size);
    packed = memory.take(round_up(keys_count, 4) * packed_size);
  }

  // The tile whose first query is number i.
  OnlineTile tile(int64_t i) const {
    return {queries + i * row_size, scores, top + i, sum + i, out + i * row_size};
  }

  // Where the keys from `begin` on stand, of `all`.
  Block block(int64_t begin, int64_t all) const {
    const int64_t count = HWY_MIN(block_length(all), all - begin);
    float* keys = packed + begin * packed_size;
    return {keys, keys + round_up(count, 4) * row_size, begin, count};
  }
};

// What the last panels lack is the last key once more, which changes no maximum and gets no weight.
template <typename Format>
void pack_block(const Keys<typename Format::T>& keys, const Block& block, const State& state) {
  const int64_t size = keys.p->head_size, row_size = state.row_size;
  const float *k[4], *v[4];
  for (int64_t key = 0; key < block.count; key += 4) {
    for (int64_t i = 0; i < 4; ++i) {
      const auto row = keys.row(block.begin + HWY_MIN(key + i, block.count - 1));
      float* copy = state.rows + 2 * i * row_size;
      k[i] = load_row<Format>(row.k, row.k_stride, size, copy);
      v[i] = load_row<Format>(row.v, row.v_stride, size, copy + row_size);
    }
    pack_panel(k, size, block.keys + key * size);
    pack_values(v, key, round_up(block.count, 4), size, block.values);
  }
}

// One tile of queries takes in one block of keys.
template <int V>
void take_in(const Block& block, int64_t size, const OnlineTile& tile, const Requests& requests) {
  const FloatTag d;
  float *const scores = tile.scores, *const top = tile.top, *const sum = tile.sum;
  const int64_t count = block.count;
  constexpr int64_t n = kLanes, width = V * kLanes;
  FloatVec new_top[V], factor[V], total[V];
  for (int v = 0; v < V; ++v) new_top[v] = hn::Load(d, top + v * n);
  for (int64_t key = 0; key < count; key += 4) {
    requests.send(key / 4);
    score_panel<V, kDepth>(block.keys + key * size, tile.queries, size, scores + key * width,
                           new_top);
  }
  for (int v = 0; v < V; ++v) {
    factor[v] = exp2_nonpositive(hn::Sub(hn::Load(d, top + v * n), new_top[v]));
    total[v] = hn::Mul(hn::Load(d, sum + v * n), factor[v]);
    hn::Store(new_top[v], d, top + v * n);
  }
  sum_weights<V>(count, new_top, scores, total);
  for (int v = 0; v < V; ++v) hn::Store(total[v], d, sum + v * n);
  for (int64_t c = 0; c < size; c += 4) {
    outer_product_sums<V>(block.values + c * round_up(count, 4), scores, count,
                          [&](int channel, const FloatVec* sums) HWY_ATTR {
                            float* to = tile.out + (c + channel) * width;
                            for (int v = 0; v < V; ++v, to += n) {
                              const FloatVec before = hn::Load(d, to);
                              hn::Store(hn::MulAdd(before, factor[v], sums[v]), d, to);
                            }
                          });
  }
}

// A run of one tile's queries with one head: queries [begin, end).
struct Task {
  int64_t b, tile, h, kv_head, begin, end;

  int64_t queries() const { return end - begin; }
  bool has_keys_of(const Task& other) const {
    return b == other.b && tile == other.tile && kv_head == other.kv_head;
  }
};

// The rows of a task's queries in q and in out.
template <typename T>
struct Rows {
  const TileAttentionParams* p;
  Rectangle tile;
  Task task;
  const T* q;
  T* out;

  Rows(const TileAttentionParams& params, const Rectangle& of_tile, const Task& of_task)
      : p(&params),
        tile(of_tile),
        task(of_task),
        q(head_of<T>(params.q, of_task.b, of_task.h)),
        out(const_cast<T*>(head_of<T>(params.out, of_task.b, of_task.h))) {}

  int64_t token(int64_t i) const { return grid_token(p->tiling, tile, task.begin + i); }

  // The rows in a view of the W queries from `begin` on.
  void request(const T* first, const AttentionView& view, int64_t begin, Requests& requests) const {
    for (int64_t i = begin; i < HWY_MIN(begin + kWidth, task.queries()); ++i) {
      requests.add(first + token(i) * view.token_stride, p->head_size);
    }
  }
};

// Loads W queries, i being the first.
template <typename Format, int V>
void begin_queries(const Rows<typename Format::T>& rows, int64_t i, const State& state) {
  constexpr int64_t width = V * kLanes;
  const TileAttentionParams& p = *rows.p;
  const int64_t count = HWY_MIN(width, rows.task.queries() - i);
  const typename Format::T* q[width] = {};
  for (int64_t n = 0; n < count; ++n) q[n] = rows.q + rows.token(i + n) * p.q.token_stride;
  const TileRows tile{&p.q, count, p.head_size, width, state.rows, state.row_size};
  load_rows<Format>(tile, q, p.scale * kLog2E, state.queries + i * state.row_size);
  std::fill_n(state.top + i, width, -std::numeric_limits<float>::infinity());
  std::fill_n(state.sum + i, width, 0.0f);
  std::fill_n(state.out + i * state.row_size, width * state.row_size, 0.0f);
}

// Stores what W queries found.
template <typename Format, int V>
void end_queries(const Rows<typename Format::T>& rows, int64_t i, const State& state) {
  const FloatTag d;
  constexpr int64_t width = V * kLanes;
  const TileAttentionParams& p = *rows.p;
  float* found = state.out + i * state.row_size;
  for (int64_t x = 0; x < width; x += kLanes) {
    const FloatVec factor = hn::Div(hn::Set(d, 1.0f), hn::Load(d, state.sum + i + x));
    for (int64_t c = 0; c < p.head_size; ++c) {
      float* at = found + c * width + x;
      hn::Store(hn::Mul(hn::Load(d, at), factor), d, at);
    }
  }
  const int64_t count = HWY_MIN(width, rows.task.queries() - i);
  typename Format::T* out[width] = {};
  for (int64_t n = 0; n < count; ++n) out[n] = rows.out + rows.token(i + n) * p.out.token_stride;
  const TileRows tile{&p.out, count, p.head_size, width, state.rows, state.row_size};
  store_rows<Format>(tile, found, out);
}

// `packed`: the keys are already.
template <typename Format>
void attend(const TileAttentionParams& p, const Task& task, bool packed, const State& state) {
  using T = typename Format::T;
  const Keys<T> keys(p, task.tile, task.b, task.kv_head);
  const Rows<T> rows(p, keys.tile, task);
  const int64_t all = keys.count(), length = block_length(all);
  const int64_t tiles = (task.queries() + kWidth - 1) / kWidth;
  const int64_t share = (length + tiles - 1) / tiles, key_size = state.packed_size;
  Requests requests;

  for (int64_t begin = 0; begin < all; begin += length) {
    const Block block = state.block(begin, all);
    const bool first = begin == 0, last = begin + length >= all;
    if (!packed) pack_block<Format>(keys, block, state);
    for (int64_t i = 0; i < task.queries(); i += kWidth) {
      // Needed next: the next tile's queries, room for results, a share of the next block's keys.
      const int64_t ahead = length + i / kWidth * share;
      if (first) rows.request(rows.q, p.q, i + kWidth, requests);
      if (last) rows.request(rows.out, p.out, i, requests);
      if (!packed) {
        keys.request(begin + ahead, begin + ahead + share, requests);
      } else if (!last) {
        requests.add(block.keys + ahead * key_size, share * key_size);
      }
      requests.finish(length / 4);
      const int64_t count = HWY_MIN(kWidth, task.queries() - i);
      with_vectors<kVectors>((count + kLanes - 1) / kLanes, [&](auto v) {
        if (first) begin_queries<Format, v()>(rows, i, state);
        take_in<v()>(block, p.head_size, state.tile(i), requests);
        if (last) end_queries<Format, v()>(rows, i, state);
      });
    }
  }
}

// All queries with all heads, in runs that fit in L2, and enough of them for all threads. Those of
// one tile and head of keys, which have their keys in common, come one after the other.
std::vector<Task> cut_tasks(const TileAttentionParams& p) {
  const int64_t fitting = kStateFloats / (2 * HWY_MAX(p.head_size, 1));
  const int64_t queries = p.tiling.height * p.tiling.width * p.batch * p.heads;
  const int64_t longest = HWY_MAX(HWY_MIN(fitting, queries / (8 * p.threads)), 4 * kWidth);
  std::vector<Task> tasks;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t tile = 0; tile < p.tiling.tiles(); ++tile) {
      const int64_t tokens = p.tiling.tile(tile).tokens();
      const int64_t runs = (tokens + longest - 1) / longest;
      const int64_t length = round_up((tokens + runs - 1) / runs, kWidth);
      for (int64_t h = 0; h < p.heads; ++h) {
        for (int64_t begin = 0; begin < tokens; begin += length) {
          tasks.push_back({b, tile, h, p.kv_head(h), begin, HWY_MIN(begin + length, tokens)});
        }
      }
    }
  }
  return tasks;
}

template <typename Format>
void run(const TileAttentionParams& p) {
  const std::vector<Task> tasks = cut_tasks(p);
  int64_t queries = 0, keys = 0;
  for (const Task& task : tasks) queries = HWY_MAX(queries, task.queries());
  for (int64_t tile = 0; tile < p.tiling.tiles(); ++tile) {
    keys = HWY_MAX(keys, Keys<typename Format::T>(p, tile, 0, 0).count());
  }
  p.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t begin, int64_t end) {
    Arena::Scope memory(thread_arena());
    const State state(memory, queries, keys, p.head_size);
    for (int64_t i = begin; i < end; ++i) {
      const bool packed = i > begin && tasks[i].has_keys_of(tasks[i - 1]);
      attend<Format>(p, tasks[i], packed, state);
    }
  });
}

void tile_attention(const TileAttentionParams& params) {
  with_dtype(params.dtype, [&]<class Format>() { run<Format>(params); });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnpatch::kernels {

HWY_EXPORT(tile_attention);

void tile_attention_cpu(const TileAttentionParams& params) {
  if (params.batch * params.heads * params.head_size == 0) return;
  HWY_DYNAMIC_DISPATCH(tile_attention)(params);
}

}  // namespace attnpatch::kernels
#endif  // HWY_ONCE
