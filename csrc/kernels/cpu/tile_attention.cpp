// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Strategy: a task is a run of one tile's queries with one head. It goes through the keys, the
// tile's own and then the shared ones, in blocks: a block is packed straight from its rows, then
// every tile of W queries along the vector lanes takes it in, as
//
//   scores[key][query] = K[key] · Q[query],  weights = 2^(scores - running maximum),
//   out[channel][query] = out · 2^(old - new maximum) + sum over keys of V[key][channel] weights
//
// Nothing but views: no tile is gathered, padded or put back. Queries carry the factor log2(e), so
// that the exponentials are powers of two. Of a core's L2 the run's queries and sums take up to 256
// KiB, a block of 128 keys of size 64 takes 64 KiB; the scores of W queries stay in L1 (8 KiB with
// AVX2).

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tile_attention.cpp"
#include <hwy/foreach_target.h>
// The order matters: the line above includes this file once per instruction set.
#include <hwy/highway.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/cpu/panels-inl.h"
#include "kernels/cpu/query_tile-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/scores-inl.h"
#include "kernels/cpu/vector_math-inl.h"
#include "kernels/tile_attention.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kWidth = kTileVectors * kLanes;  // W
constexpr int64_t kBlockKeys = 128;
constexpr int64_t kSumLength = 64;  // a sum of sums has smaller rounding errors than a long sum
constexpr int64_t kStateFloats = 80 * 1024;  // of a run's queries and sums

// Queries [begin, end) of a tile.
struct Run {
  int64_t tile, begin, end;
};

// Where a tile's token stands in the grid. Its number fits in 32 bits, whose division is quicker.
HWY_INLINE int64_t grid_token(const Tiling& tiling, const Rectangle& tile, int64_t i) {
  const auto number = static_cast<uint32_t>(i), width = static_cast<uint32_t>(tile.width);
  return (tile.top + number / width) * tiling.width + tile.left + number % width;
}

// The keys and values of one tile and head: own ones first, then those that all tiles share.
template <typename T>
struct Keys {
  const TileAttentionParams& p;
  Rectangle tile;
  int64_t first = 0, own = 0;
  const T *k, *v, *shared_k, *shared_v;

  Keys(const TileAttentionParams& params, int64_t index, int64_t b, int64_t h)
      : p(params),
        tile(p.tiling.tile(index)),
        k(head_of<T>(p.k, b, h)),
        v(head_of<T>(p.v, b, h)),
        shared_k(head_of<T>(p.shared_k, b, h)),
        shared_v(head_of<T>(p.shared_v, b, h)) {
    own = p.starts.empty() ? tile.tokens() : p.starts[index + 1] - p.starts[index];
    first = p.starts.empty() ? 0 : p.starts[index];
  }

  int64_t count() const { return own + p.shared_tokens; }

  // A key's row and its value's, and how far their channels lie apart.
  struct Row {
    const T *k, *v;
    int64_t k_stride, v_stride;
  };
  Row row(int64_t i) const {
    const bool is_own = i < own;
    const AttentionView& k_view = is_own ? p.k : p.shared_k;
    const AttentionView& v_view = is_own ? p.v : p.shared_v;
    const int64_t token = !is_own            ? i - own
                          : p.starts.empty() ? grid_token(p.tiling, tile, i)
                                             : first + i;
    return {(is_own ? k : shared_k) + token * k_view.token_stride,
            (is_own ? v : shared_v) + token * v_view.token_stride, k_view.channel_stride,
            v_view.channel_stride};
  }
};

// The working memory of one thread.
struct State {
  float *queries, *out;  // [tile][channel][W]
  float *top, *sum;      // [tile][W]: running maximum of the scores, sum of the weights
  float* scores;         // [key][W]
  float *keys, *values;  // one block, packed
  float* rows;           // kLanes rows, eight at least
  int64_t row_size;

  State(Workspace& workspace, int64_t queries_count, int64_t size) {
    row_size = round_up(size, HWY_MAX(kLanes, 4));
    const int64_t tiles = (queries_count + kWidth - 1) / kWidth;
    const int64_t parts[] = {tiles * row_size * kWidth,
                             tiles * row_size * kWidth,
                             tiles * kWidth,
                             tiles * kWidth,
                             kBlockKeys * kWidth,
                             kBlockKeys * row_size,
                             kBlockKeys * row_size,
                             HWY_MAX(kLanes, 8) * row_size};
    int64_t total = 0;
    for (const int64_t part : parts) total += round_up(part, 16);
    float* next = workspace.reserve(total);
    float** areas[] = {&queries, &out, &top, &sum, &scores, &keys, &values, &rows};
    for (size_t i = 0; i < std::size(parts); ++i) {
      *areas[i] = next;
      next += round_up(parts[i], 16);
    }
  }
};

// Keys [begin, begin + count) as one block. What the last panels lack is the last key once more,
// which changes no maximum and gets no weight.
template <typename Format>
void pack_block(const Keys<typename Format::T>& keys, int64_t begin, int64_t count, State& state) {
  const int64_t size = keys.p.head_size, row_size = state.row_size;
  const float *k[4], *v[4];
  for (int64_t key = 0; key < count; key += 4) {
    for (int64_t i = 0; i < 4; ++i) {
      const auto row = keys.row(begin + HWY_MIN(key + i, count - 1));
      float* copy = state.rows + 2 * i * row_size;
      k[i] = load_row<Format>(row.k, row.k_stride, size, copy);
      v[i] = load_row<Format>(row.v, row.v_stride, size, copy + row_size);
    }
    pack_panel(k, size, state.keys + key * size);
    pack_values(v, key, round_up(count, 4), size, state.values);
  }
}

// Asks for the rows of keys [begin, end) ahead of their packing.
template <typename T>
void prefetch_keys(const Keys<T>& keys, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < HWY_MIN(end, keys.count()); ++i) {
    const auto row = keys.row(i);
    prefetch_rows(row.k, 0, 1, keys.p.head_size);
    prefetch_rows(row.v, 0, 1, keys.p.head_size);
  }
}

// One tile of queries takes in one block of keys.
template <int V>
void take_in(const State& state, int64_t count, int64_t size, const float* queries, float* top,
             float* sum, float* out) {
  const FloatTag d;
  constexpr int64_t n = kLanes, width = V * kLanes;
  FloatVec new_top[V], factor[V], total[V];
  for (int v = 0; v < V; ++v) new_top[v] = hn::Load(d, top + v * n);
  for (int64_t key = 0; key < count; key += 4) {
    score_panel<V>(state.keys + key * size, queries, size, state.scores + key * width, new_top);
  }
  for (int v = 0; v < V; ++v) {
    factor[v] = exp2_nonpositive(hn::Sub(hn::Load(d, top + v * n), new_top[v]));
    total[v] = hn::Mul(hn::Load(d, sum + v * n), factor[v]);
    hn::Store(new_top[v], d, top + v * n);
  }
  for (int64_t key = 0; key < count; key += kSumLength) {
    sum_weights<V>(HWY_MIN(kSumLength, count - key), new_top, state.scores + key * width, total);
  }
  for (int v = 0; v < V; ++v) hn::Store(total[v], d, sum + v * n);
  for (int64_t c = 0; c < size; c += 4) {
    for (int64_t key = 0; key < count; key += kSumLength) {
      outer_product_sums<V>(state.values + c * round_up(count, 4) + 4 * key,
                            state.scores + key * width, HWY_MIN(kSumLength, count - key),
                            [&](int channel, const FloatVec* sums) HWY_ATTR {
                              float* to = out + (c + channel) * width;
                              for (int v = 0; v < V; ++v, to += n) {
                                const FloatVec before = hn::Load(d, to);
                                hn::Store(key == 0 ? hn::MulAdd(before, factor[v], sums[v])
                                                   : hn::Add(before, sums[v]),
                                          d, to);
                              }
                            });
    }
  }
}

// A run of queries with one head.
template <typename T>
struct Task {
  const TileAttentionParams& p;
  Run run;
  Keys<T> keys;
  const T* q;
  T* out;

  Task(const TileAttentionParams& params, const Run& of_run, int64_t b, int64_t h)
      : p(params),
        run(of_run),
        keys(params, run.tile, b, h),
        q(head_of<T>(p.q, b, h)),
        out(const_cast<T*>(head_of<T>(p.out, b, h))) {}

  int64_t queries() const { return run.end - run.begin; }

  // The rows of a tile of queries in q or out; those of the next tile are asked for.
  template <typename Pointer>
  void find_rows(Pointer first, const AttentionView& view, int64_t begin, Pointer* rows) const {
    for (int64_t i = begin; i < HWY_MIN(begin + 2 * kWidth, queries()); ++i) {
      Pointer row = first + grid_token(p.tiling, keys.tile, run.begin + i) * view.token_stride;
      if (i < begin + kWidth) {
        rows[i - begin] = row;
      } else {
        prefetch_rows(row, 0, 1, p.head_size);
      }
    }
  }

  // Calls body(first query of a tile, how many, V as a constant) for each tile of queries.
  template <typename Body>
  void for_each_tile(const Body& body) const {
    for (int64_t i = 0; i < queries(); i += kWidth) {
      const int64_t count = HWY_MIN(kWidth, queries() - i);
      with_vectors((count + kLanes - 1) / kLanes, [&](auto v) { body(i, count, v); });
    }
  }
};

template <typename Format>
void begin_queries(const Task<typename Format::T>& task, State& state) {
  const TileAttentionParams& p = task.p;
  const typename Format::T* rows[kWidth];
  task.for_each_tile([&](int64_t i, int64_t count, auto v) {
    constexpr int64_t width = v() * kLanes;
    task.find_rows(task.q, p.q, i, rows);
    load_rows<Format>(rows, p.q, count, p.head_size, width, p.scale * kLog2E, state.rows,
                      state.row_size, state.queries + i * state.row_size);
    std::fill_n(state.top + i, width, -std::numeric_limits<float>::infinity());
    std::fill_n(state.sum + i, width, 0.0f);
    std::fill_n(state.out + i * state.row_size, width * state.row_size, 0.0f);
  });
}

template <typename Format>
void end_queries(const Task<typename Format::T>& task, State& state) {
  const FloatTag d;
  const TileAttentionParams& p = task.p;
  typename Format::T* rows[kWidth];
  task.for_each_tile([&](int64_t i, int64_t count, auto v) {
    constexpr int64_t width = v() * kLanes;
    float* out = state.out + i * state.row_size;
    for (int64_t x = 0; x < width; x += kLanes) {
      const FloatVec factor = hn::Div(hn::Set(d, 1.0f), hn::Load(d, state.sum + i + x));
      for (int64_t c = 0; c < p.head_size; ++c) {
        float* at = out + c * width + x;
        hn::Store(hn::Mul(hn::Load(d, at), factor), d, at);
      }
    }
    task.find_rows(task.out, p.out, i, rows);
    store_rows<Format>(out, count, p.head_size, width, state.rows, state.row_size, p.out, rows);
  });
}

template <typename Format>
void attend(const Task<typename Format::T>& task, State& state) {
  const auto& keys = task.keys;
  const int64_t blocks = (keys.count() + kBlockKeys - 1) / kBlockKeys;
  const int64_t block = round_up((keys.count() + blocks - 1) / blocks, 4);
  // While a tile of queries is at work, its share of the next keys is asked for.
  const int64_t tiles = (task.queries() + kWidth - 1) / kWidth;
  const int64_t share = (block + tiles - 1) / tiles;

  prefetch_keys(keys, 0, block);
  begin_queries<Format>(task, state);
  for (int64_t begin = 0; begin < keys.count(); begin += block) {
    const int64_t count = HWY_MIN(block, keys.count() - begin);
    pack_block<Format>(keys, begin, count, state);
    task.for_each_tile([&](int64_t i, int64_t, auto v) {
      const int64_t ahead = begin + block + i / kWidth * share;
      prefetch_keys(keys, ahead, ahead + share);
      take_in<v()>(state, count, keys.p.head_size, state.queries + i * state.row_size,
                   state.top + i, state.sum + i, state.out + i * state.row_size);
    });
  }
  end_queries<Format>(task, state);
}

// The tiles' queries in runs that fit in L2, and enough of them for all threads.
std::vector<Run> cut_runs(const TileAttentionParams& p) {
  const int64_t fitting = kStateFloats / (2 * HWY_MAX(p.head_size, 1));
  const int64_t all = p.tiling.height * p.tiling.width * p.batch * p.heads;
  const int64_t longest = HWY_MAX(HWY_MIN(fitting, all / (8 * p.threads)), 4 * kWidth);
  std::vector<Run> runs;
  for (int64_t tile = 0; tile < p.tiling.tiles(); ++tile) {
    const int64_t queries = p.tiling.tile(tile).tokens();
    const int64_t count = (queries + longest - 1) / longest;
    const int64_t length = round_up((queries + count - 1) / count, kWidth);
    for (int64_t begin = 0; begin < queries; begin += length) {
      runs.push_back({tile, begin, HWY_MIN(begin + length, queries)});
    }
  }
  return runs;
}

// Heads come innermost: their rows of one token lie side by side.
template <typename Format>
void run(const TileAttentionParams& p) {
  const std::vector<Run> runs = cut_runs(p);
  const auto count = static_cast<int64_t>(runs.size());
  int64_t longest = 0;
  for (const Run& run : runs) longest = HWY_MAX(longest, run.end - run.begin);
  p.parallel_for(p.batch * count * p.heads, [&](int64_t task, int64_t last) {
    thread_local Workspace workspace;
    State state(workspace, longest, p.head_size);
    for (; task < last; ++task) {
      const Run& run = runs[task / p.heads % count];
      attend<Format>(Task<typename Format::T>(p, run, task / (p.heads * count), task % p.heads),
                     state);
    }
  });
}

void tile_attention(const TileAttentionParams& params) {
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

HWY_EXPORT(tile_attention);

void tile_attention_cpu(const TileAttentionParams& params) {
  if (params.batch * params.heads * params.head_size == 0) return;
  HWY_DYNAMIC_DISPATCH(tile_attention)(params);
}

}  // namespace attnpatch
#endif  // HWY_ONCE
