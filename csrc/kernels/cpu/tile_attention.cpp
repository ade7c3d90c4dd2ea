// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Strategy: a task is a run of one tile's queries with one head, which goes through the keys, the
// tile's own and then the shared ones: online_softmax-inl.h. Nothing but views: no tile is
// gathered, padded or put back.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tile_attention.cpp"
#include <hwy/foreach_target.h>
// The order matters: the line above includes this file once per instruction set.
#include <hwy/highway.h>

#include <cstdint>
#include <vector>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/online_softmax-inl.h"
#include "kernels/cpu/query_tile-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/scores-inl.h"
#include "kernels/cpu/task_lots.h"
#include "kernels/tile_attention.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Where a tile's token stands in the grid. Its number fits in 32 bits, whose division is quicker.
HWY_INLINE int64_t grid_token(const Tiling& tiling, const Rectangle& tile, int64_t i) {
  const auto number = static_cast<uint32_t>(i), width = static_cast<uint32_t>(tile.width);
  return (tile.top + number / width) * tiling.width + tile.left + number % width;
}

// The keys and values of one tile and head: own ones first, then those that all tiles share.
template <typename Format>
struct TileKeys {
  using T = typename Format::T;
  const TileAttentionParams* p;
  Rectangle tile;
  int64_t first = 0, own = 0;
  const T *k, *v, *shared_k, *shared_v;

  TileKeys(const TileAttentionParams& params, int64_t index, int64_t b, int64_t h)
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

  KeyRow<T> row(int64_t i) const {
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

  void pack(const Block& block, const State& state) const {
    pack_block<Format>(
        block, state, [this](int64_t i) { return row(i); }, [](const int64_t*, float*) {});
  }

  void request(int64_t begin, int64_t end, Requests& requests) const {
    for (int64_t i = begin; i < HWY_MIN(end, count()); ++i) {
      requests.add(row(i).k, p->head_size);
      requests.add(row(i).v, p->head_size);
    }
  }
};

// A run of one tile's queries with one head: queries [begin, end).
struct TileTask {
  int64_t b, tile, h, kv_head, begin, end;

  int64_t queries() const { return end - begin; }
  bool has_keys_of(const TileTask& other) const {
    return b == other.b && tile == other.tile && kv_head == other.kv_head;
  }
};

// A task's queries, whose rows lie in q and in out.
template <typename Format>
struct TileQueries {
  using T = typename Format::T;
  const TileAttentionParams* p;
  Rectangle tile;
  TileTask task;
  const T* q;
  T* out;

  TileQueries(const TileAttentionParams& params, const Rectangle& of_tile, const TileTask& of_task)
      : p(&params),
        tile(of_tile),
        task(of_task),
        q(head_of<T>(params.q, of_task.b, of_task.h)),
        out(const_cast<T*>(head_of<T>(params.out, of_task.b, of_task.h))) {}

  int64_t count() const { return task.queries(); }
  int64_t token(int64_t i) const { return grid_token(p->tiling, tile, task.begin + i); }

  void request_queries(int64_t i, Requests& requests) const { request(q, p->q, i, requests); }
  void request_results(int64_t i, Requests& requests) const { request(out, p->out, i, requests); }

  template <int V>
  void load(int64_t i, const OnlineTile& to, const State& state) const {
    constexpr int64_t width = V * kLanes;
    const int64_t some = HWY_MIN(width, count() - i);
    const T* tokens[width] = {};
    for (int64_t n = 0; n < some; ++n) tokens[n] = q + token(i + n) * p->q.token_stride;
    const TileRows rows{&p->q, some, p->head_size, width, state.rows, state.row_size};
    load_rows<Format>(rows, tokens, state.sizes.factor, to.queries);
  }

  template <int V>
  void store(int64_t i, const OnlineTile& from, const State& state) const {
    constexpr int64_t width = V * kLanes;
    const int64_t some = HWY_MIN(width, count() - i);
    T* tokens[width] = {};
    for (int64_t n = 0; n < some; ++n) tokens[n] = out + token(i + n) * p->out.token_stride;
    const TileRows rows{&p->out, some, p->head_size, width, state.rows, state.row_size};
    store_rows<Format>(rows, from.out, tokens);
  }

 private:
  void request(const T* first, const AttentionView& view, int64_t begin, Requests& requests) const {
    for (int64_t i = begin; i < HWY_MIN(begin + kWidth, count()); ++i) {
      requests.add(first + token(i) * view.token_stride, p->head_size);
    }
  }
};

// All queries with all heads, in runs that fit in L2, and enough of them for all threads. Those of
// one tile and head of keys, which have their keys in common, come one after the other.
std::vector<TileTask> cut_tasks(const TileAttentionParams& p) {
  const int64_t fitting = kStateFloats / (2 * HWY_MAX(p.head_size, 1));
  const int64_t queries = p.tiling.height * p.tiling.width * p.batch * p.heads;
  const int64_t longest = HWY_MAX(HWY_MIN(fitting, queries / (8 * p.threads)), 4 * kWidth);
  std::vector<TileTask> tasks;
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
  const std::vector<TileTask> tasks = cut_tasks(p);
  int64_t queries = 0, keys = 0;
  for (const TileTask& task : tasks) queries = HWY_MAX(queries, task.queries());
  for (int64_t tile = 0; tile < p.tiling.tiles(); ++tile) {
    keys = HWY_MAX(keys, TileKeys<Format>(p, tile, 0, 0).count());
  }
  const int64_t all = p.batch * p.heads * p.tiling.height * p.tiling.width;
  const int64_t work = 2 * all * keys * p.head_size;
  using Products = typename Format::Products;
  const HeadSizes sizes{p.head_size, ScoreLanes::of<Products>(p.head_size), p.scale * kLog2E};
  TaskLots lots(lots_of_one_head(tasks), useful_threads(p, work));
  run_workers(p, lots, [&](TaskLots::Worker& worker) {
    Arena::Scope memory(thread_arena());
    const State state(memory, queries, keys, sizes);
    int64_t before = -1;
    for (int64_t i; (i = worker.take()) >= 0; before = i) {
      const bool packed = before >= 0 && tasks[i].has_keys_of(tasks[before]);
      const TileKeys<Format> keys_of_task(p, tasks[i].tile, tasks[i].b, tasks[i].kv_head);
      attend<Products>(keys_of_task, TileQueries<Format>(p, keys_of_task.tile, tasks[i]), packed,
                       state);
    }
  });
}

void tile_attention(const TileAttentionParams& params) {
  with_products(params.dtype, [&]<class Format>() { run<Format>(params); });
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
