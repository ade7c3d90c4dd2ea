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

#include "kernels/cpu/online_softmax-inl.h"
#include "kernels/cpu/online_tasks-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/scores-inl.h"
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

  static const float* bias(int64_t) { return nullptr; }
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
  const T* first_q;
  T* first_out;

  TileQueries(const TileAttentionParams& params, const TileTask& of_task)
      : p(&params),
        tile(params.tiling.tile(of_task.tile)),
        task(of_task),
        first_q(head_of<T>(params.q, of_task.b, of_task.h)),
        first_out(const_cast<T*>(head_of<T>(params.out, of_task.b, of_task.h))) {}

  const AttentionView& q() const { return p->q; }
  const AttentionView& out() const { return p->out; }
  int64_t count() const { return task.queries(); }
  int64_t token(int64_t i) const { return grid_token(p->tiling, tile, task.begin + i); }
  const T* row(int64_t i) const { return first_q + token(i) * p->q.token_stride; }
  T* result(int64_t i) const { return first_out + token(i) * p->out.token_stride; }
  static const float* bias(int64_t) { return nullptr; }
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
  const auto lanes = ScoreLanes::of<typename Format::Products>(p.head_size);
  const OnlineDemand demand{queries, keys, work, {p.head_size, lanes, p.scale * kLog2E}};
  run_online<Format>(
      p, tasks, demand,
      [&](const TileTask& task) { return TileKeys<Format>(p, task.tile, task.b, task.kv_head); },
      [&](const TileTask& task) { return TileQueries<Format>(p, task); });
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
