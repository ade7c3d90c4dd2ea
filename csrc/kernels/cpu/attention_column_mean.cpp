// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Strategy: a tile of W = 2 or 4 vectors of queries takes its whole row of the map at once,
//
//   scores[key][query] = K[key] · Q[query],  e = exp(scores - their maximum),
//   out[channel][query] = sum over keys of V[key][channel] e[key][query] / sum over keys of e,
//   column[key] += sum over queries of e[key][query] / sum over keys of e,
//
// so that the columns need no second product: when the sums are known, the exponentials still lie
// there. For 4096 keys that row is 256 KiB with AVX2, half of a small L2; a block of kKeyBlock keys
// of it, 4 KiB, goes through exponential and second product in L1.
//
// A task is a slice of one head's queries, with a row of columns of its own. How a head is sliced
// follows from the shapes alone, and the tasks' columns are added in one order: so threads do not
// change the result.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_column_mean.cpp"
#include <hwy/foreach_target.h>
// The order matters: the line above includes this file once per instruction set.
#include <hwy/highway.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/attention_column_mean.h"
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

// A sum of sums has smaller rounding errors than a long sum.
constexpr int64_t kDepth = 40;  // of a sum of scores
constexpr int64_t kKeyBlock = 64;

using Head = PackedHead<FloatProducts>;

// Every tile's width divides it.
constexpr int64_t kQueryUnit = 64;

// The tasks: slices of the heads' queries. Enough of them for many threads, none too short to be
// worth packing a head for.
struct Slices {
  int64_t count, queries;

  explicit Slices(const AttentionColumnMeanParams& p) {
    constexpr int64_t kTasks = 256, kLeast = 2 * kQueryUnit;
    const int64_t heads = p.batch * p.heads;
    const int64_t wanted =
        std::clamp((kTasks + heads - 1) / heads, int64_t{1}, (p.queries + kLeast - 1) / kLeast);
    queries = round_up((p.queries + wanted - 1) / wanted, kQueryUnit);
    count = (p.queries + queries - 1) / queries;
  }
};

#if HWY_TARGET == HWY_SCALAR

// Adds the sums over the lanes of four vectors to four floats.
HWY_INLINE void add_lane_sums(const FloatVec x[4], float* to) {
  for (int i = 0; i < 4; ++i) to[i] += hn::GetLane(x[i]);
}

#else

template <class D>
HWY_INLINE void add_blocks(D d, hn::Vec<D> x, float* to) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    hn::StoreU(hn::Add(hn::LoadU(d, to), x), d, to);
  } else {
    const hn::Half<D> half;
    add_blocks(half, hn::Add(hn::LowerHalf(half, x), hn::UpperHalf(half, x)), to);
  }
}

HWY_INLINE void add_lane_sums(FloatVec x[4], float* to) {
  transpose_blocks(x);
  add_blocks(FloatTag(), hn::Add(hn::Add(x[0], x[1]), hn::Add(x[2], x[3])), to);
}

#endif  // HWY_TARGET == HWY_SCALAR

// column[key] += sum over the lanes of e[key] * share.
template <int V>
HWY_INLINE void add_columns(int64_t keys, const float* e, const FloatVec share[V], float* column) {
  const FloatTag d;
  constexpr int64_t n = kLanes;
  for (int64_t key = 0; key < keys; key += 4) {
    FloatVec x[4];
    for (int i = 0; i < 4; ++i, e += V * n) {
      x[i] = hn::Mul(hn::Load(d, e), share[0]);
      for (int v = 1; v < V; ++v) x[i] = hn::MulAdd(hn::Load(d, e + v * n), share[v], x[i]);
    }
    add_lane_sums(x, column + key);
  }
}

// One tile, of which `count` queries are real; its columns are added to `column`, if there is one.
template <int V>
void tile(const Head& head, int64_t keys, int64_t size, int64_t count, Scratch& scratch,
          float* column) {
  const FloatTag d;
  constexpr int64_t n = kLanes;
  constexpr int64_t width = V * n;
  FloatVec top[V], sum[V];
  for (int v = 0; v < V; ++v) {
    top[v] = hn::Set(d, -std::numeric_limits<float>::infinity());
    sum[v] = hn::Zero(d);
  }
  if (keys == 0) {
    std::memset(scratch.out, 0, sizeof(float) * static_cast<size_t>(round_up(size, 4) * width));
    return;
  }
  const auto lanes = ScoreLanes::of<FloatProducts>(size);
  for (int64_t key = 0; key < keys; key += 4) {
    score_panel<V, kDepth>(head.keys_from(key), scratch.queries, lanes, 1.0f,
                           scratch.scores + key * width, top);
    scratch.send_requests();
  }
  for (int64_t key = 0; key < keys; key += kKeyBlock) {
    const int64_t some = HWY_MIN(kKeyBlock, keys - key);
    float* e = scratch.scores + key * width;
    sum_weights<V>(some, top, e, sum);
    for (int64_t c = 0; c < size; c += 4) {
      outer_product_block<V>(head.values_from(key, c), e, some, key > 0, scratch.out + c * width);
    }
  }
  FloatVec share[V];
  for (int v = 0; v < V; ++v) share[v] = hn::Div(hn::Set(d, 1.0f), sum[v]);
  for (int64_t c = 0; c < size; ++c) {
    for (int v = 0; v < V; ++v) {
      float* out = scratch.out + c * width + v * n;
      hn::Store(hn::Mul(hn::Load(d, out), share[v]), d, out);
    }
  }
  if (column == nullptr) return;
  for (int v = 0; v < V; ++v) {
    const int64_t real = HWY_MAX(HWY_MIN(count - v * n, n), int64_t{0});
    share[v] = hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(real)), share[v]);
  }
  add_columns<V>(keys, scratch.scores, share, column);
}

// One row of columns for each task that records. What they add up to is the result, which the
// thread that ends the last task writes.
struct ColumnParts {
  std::vector<int64_t> place;  // of a row of the batch among those recorded, or -1
  int64_t heads, slices, stride;
  float* memory;
  std::atomic<int64_t> left;  // tasks that have not ended

  ColumnParts(const AttentionColumnMeanParams& p, const Slices& slices_of, Arena::Scope& scope)
      : place(static_cast<size_t>(p.batch), -1),
        heads(p.heads),
        slices(slices_of.count),
        stride(round_up(p.keys, 16)),
        left(p.batch * p.heads * slices_of.count) {
    int64_t recorded = 0;
    for (int64_t r = 0; r < p.recorded; ++r) {
      if (place[p.rows[r]] < 0) place[p.rows[r]] = recorded++;
    }
    memory = scope.take(recorded * heads * slices * stride);
  }

  float* row(int64_t b, int64_t h, int64_t slice) const {
    if (place[b] < 0) return nullptr;
    return memory + ((place[b] * heads + h) * slices + slice) * stride;
  }
};

// The columns of recorded row r.
void reduce(const AttentionColumnMeanParams& p, const ColumnParts& parts, int64_t r) {
  const FloatTag d;
  const FloatVec share = hn::Set(d, 1.0f / static_cast<float>(p.heads));
  for (int64_t key = 0; key < p.keys; key += kLanes) {
    FloatVec sum = hn::Zero(d);
    for (int64_t h = 0; h < p.heads; ++h) {
      FloatVec head = hn::Zero(d);
      for (int64_t slice = 0; slice < parts.slices; ++slice) {
        head = hn::Add(head, hn::Load(d, parts.row(p.rows[r], h, slice) + key));
      }
      sum = hn::Add(sum, head);
    }
    HWY_ALIGN float mean[kLanes];
    hn::Store(hn::Mul(sum, share), d, mean);
    std::memcpy(p.column_mean + r * p.keys + key, mean,
                sizeof(float) * static_cast<size_t>(HWY_MIN(kLanes, p.keys - key)));
  }
}

template <typename Format>
void pack_head(const AttentionColumnMeanParams& p, int64_t b, int64_t h, const Head& head) {
  Segments segments;
  segments.add({&p.k, &p.v, b, p.keys, 1.0f, nullptr});
  pack<Format>(segments, h, p.head_size, head);
}

// One thread's tasks; the slices of a head are a lot, whose keys are packed once.
template <typename Format>
void run_tasks(const AttentionColumnMeanParams& p, const Slices& slices, ColumnParts& parts,
               TaskLots::Worker& worker) {
  Arena::Scope memory(thread_arena());
  const int64_t keys = round_up(p.keys, 4);
  const Head head(memory.take(Head::floats(keys, p.head_size)), keys, p.head_size);
  Scratch scratch(memory, p.keys, p.head_size);
  int64_t packed = -1;
  for (int64_t task; (task = worker.take()) >= 0;) {
    const int64_t lot = task / slices.count, slice = task % slices.count;
    const int64_t b = lot % p.batch, h = lot / p.batch;
    if (lot != packed) pack_head<Format>(p, b, p.kv_head(h), head);
    packed = lot;
    float* column = parts.row(b, h, slice);
    if (column != nullptr) {
      std::memset(column, 0, sizeof(float) * static_cast<size_t>(parts.stride));
    }
    const int64_t begin = slice * slices.queries;
    const HeadQueries queries{&p.q,
                              &p.out,
                              b,
                              h,
                              begin,
                              HWY_MIN(begin + slices.queries, p.queries),
                              p.head_size,
                              p.scale * kLog2E,
                              (p.keys + 3) / 4};
    for_each_tile<Format>(queries, scratch, [&](auto v, int64_t, int64_t count) {
      tile<v()>(head, p.keys, p.head_size, count, scratch, column);
    });
    if (parts.left.fetch_sub(1, std::memory_order_acq_rel) > 1) continue;
    for (int64_t r = 0; r < p.recorded; ++r) reduce(p, parts, r);
  }
}

template <typename Format>
void run(const AttentionColumnMeanParams& p) {
  Arena::Scope memory(thread_arena());
  const Slices slices(p);
  ColumnParts parts(p, slices, memory);
  const int64_t lot_count = p.heads * p.batch;
  const int64_t work = 2 * lot_count * p.queries * p.keys * p.head_size;
  TaskLots lots(lot_count, slices.count, useful_threads(p, work));
  run_workers(p, lots,
              [&](TaskLots::Worker& worker) { run_tasks<Format>(p, slices, parts, worker); });
}

void attention_column_mean(const AttentionColumnMeanParams& params) {
  with_dtype(params.dtype, [&]<class Format>() { run<Format>(params); });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnpatch::kernels {

HWY_EXPORT(attention_column_mean);

void attention_column_mean_cpu(const AttentionColumnMeanParams& params) {
  if (params.batch * params.heads * params.queries == 0) {
    std::fill_n(params.column_mean, params.recorded * params.keys, 0.0f);
    return;
  }
  HWY_DYNAMIC_DISPATCH(attention_column_mean)(params);
}

}  // namespace attnpatch::kernels
#endif  // HWY_ONCE
