// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Strategy: the bias is a few more channels that scores are sums over, behind those of queries and
// keys; online_softmax-inl.h does the rest. A task is a run of queries with one head; a run goes
// through all keys. The channels are
//
//   u log2(e) · w                       a term, with 0 in place of infinities
//   sign(u) 2^100 · infinite(w) 2^100   of a term some w of which is infinite
//   infinite(u) 2^100 · sign(w) 2^100   of a term some u of which is
//
// with infinite(x) the sign of an infinity, or 0: products of minus infinity overflow to it, and 0
// times infinity is 0. A query that meets a product of plus infinity has a NaN in place of u. They
// are made once a call, (tokens, channels) in fp32 for queries and for keys, and packed with the
// rows.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/biased_attention.cpp"
#include <hwy/foreach_target.h>
// The order matters: the line above includes this file once per instruction set.
#include <hwy/highway.h>

#include <cstdint>
#include <vector>

#include "kernels/biased_attention.h"
#include "kernels/cpu/arena.h"
#include "kernels/cpu/bias_channels.h"
#include "kernels/cpu/online_softmax-inl.h"
#include "kernels/cpu/panels-inl.h"
#include "kernels/cpu/query_tile-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/scores-inl.h"
#include "kernels/cpu/task_lots.h"
#include "kernels/cpu/vector_math-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The keys and values of one head, with the keys' channels of the bias.
template <typename Format>
struct BiasedKeys {
  using T = typename Format::T;
  const BiasedAttentionParams* p;
  const BiasChannels* bias;
  int64_t b;
  const T *k, *v;

  BiasedKeys(const BiasedAttentionParams& params, const BiasChannels& channels, int64_t row,
             int64_t kv_head)
      : p(&params),
        bias(&channels),
        b(row),
        k(head_of<T>(params.k, row, kv_head)),
        v(head_of<T>(params.v, row, kv_head)) {}

  int64_t count() const { return p->keys; }

  KeyRow<T> row(int64_t i) const {
    return {k + i * p->k.token_stride, v + i * p->v.token_stride, p->k.channel_stride,
            p->v.channel_stride};
  }

  void pack(const Block& block, const State& state) const {
    const auto put = [this](const int64_t* number, float* panel) {
      const float* rows[4];
      for (int i = 0; i < 4; ++i) rows[i] = bias->of_key(b, number[i]);
      pack_panel(rows, bias->count, panel);
    };
    pack_block<Format>(
        block, state, [this](int64_t i) { return row(i); }, put);
  }

  void request(int64_t begin, int64_t end, Requests& requests) const {
    for (int64_t i = begin; i < HWY_MIN(end, count()); ++i) {
      requests.add(row(i).k, p->head_size);
      requests.add(row(i).v, p->head_size);
    }
  }
};

// Queries [begin, end) of one head.
struct BiasedTask {
  int64_t b, h, kv_head, begin, end;

  bool has_keys_of(const BiasedTask& other) const {
    return b == other.b && kv_head == other.kv_head;
  }
};

template <typename Format>
struct BiasedQueries {
  using T = typename Format::T;
  const BiasedAttentionParams* p;
  const BiasChannels* bias;
  BiasedTask task;
  const T* q;
  T* out;

  BiasedQueries(const BiasedAttentionParams& params, const BiasChannels& channels,
                const BiasedTask& of_task)
      : p(&params),
        bias(&channels),
        task(of_task),
        q(head_of<T>(params.q, of_task.b, of_task.h) + of_task.begin * params.q.token_stride),
        out(const_cast<T*>(head_of<T>(params.out, of_task.b, of_task.h)) +
            of_task.begin * params.out.token_stride) {}

  int64_t count() const { return task.end - task.begin; }

  void request_queries(int64_t i, Requests& requests) const { request(q, p->q, i, requests); }
  void request_results(int64_t i, Requests& requests) const { request(out, p->out, i, requests); }

  template <int V>
  void load(int64_t i, const OnlineTile& to, const State& state) const {
    constexpr int64_t width = V * kLanes;
    const int64_t some = HWY_MIN(width, count() - i), size = p->head_size;
    const T* tokens[width] = {};
    for (int64_t n = 0; n < some; ++n) tokens[n] = q + (i + n) * p->q.token_stride;
    const TileRows rows{&p->q, some, size, width, state.rows, state.row_size};
    load_rows<Format>(rows, tokens, state.sizes.factor, to.queries);
    float* behind = to.queries + lanes_of<typename Format::Products>(size) * width;
    for (int64_t base = 0; base < width; base += kLanes) {
      const float* channels[kLanes];
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const int64_t n = HWY_MIN(base + lane, some - 1);
        channels[lane] = bias->of_query(task.b, task.begin + i + n);
      }
      columns_from_rows<FloatProducts>(channels, bias->width, 1.0f, width, behind + base);
    }
  }

  template <int V>
  void store(int64_t i, const OnlineTile& from, const State& state) const {
    constexpr int64_t width = V * kLanes;
    const int64_t some = HWY_MIN(width, count() - i);
    T* tokens[width] = {};
    for (int64_t n = 0; n < some; ++n) tokens[n] = out + (i + n) * p->out.token_stride;
    const TileRows rows{&p->out, some, p->head_size, width, state.rows, state.row_size};
    store_rows<Format>(rows, from.out, tokens);
  }

 private:
  void request(const T* first, const AttentionView& view, int64_t begin, Requests& requests) const {
    for (int64_t i = begin; i < HWY_MIN(begin + kWidth, count()); ++i) {
      requests.add(first + i * view.token_stride, p->head_size);
    }
  }
};

// Runs that fit in L2, and enough of them for all threads; those of one head of keys come one after
// the other.
std::vector<BiasedTask> cut_tasks(const BiasedAttentionParams& p) {
  const int64_t fitting = kStateFloats / (2 * p.head_size);
  const int64_t all = p.queries * p.batch * p.heads;
  const int64_t longest = HWY_MAX(HWY_MIN(fitting, all / (8 * p.threads)), 4 * kWidth);
  const int64_t runs = (p.queries + longest - 1) / longest;
  const int64_t length = round_up((p.queries + runs - 1) / runs, kWidth);
  std::vector<BiasedTask> tasks;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t h = 0; h < p.heads; ++h) {
      for (int64_t begin = 0; begin < p.queries; begin += length) {
        tasks.push_back({b, h, p.kv_head(h), begin, HWY_MIN(begin + length, p.queries)});
      }
    }
  }
  return tasks;
}

template <typename Format>
void run(const BiasedAttentionParams& p, const BiasChannels& bias) {
  const std::vector<BiasedTask> tasks = cut_tasks(p);
  const int64_t queries = tasks.front().end;
  const int64_t work = 2 * p.batch * p.heads * p.queries * p.keys * p.head_size;
  using Products = typename Format::Products;
  const HeadSizes sizes{p.head_size, ScoreLanes::of<Products>(p.head_size, bias.count),
                        p.scale * kLog2E};
  TaskLots lots(lots_of_one_head(tasks), useful_threads(p, work));
  run_workers(p, lots, [&](TaskLots::Worker& worker) {
    Arena::Scope memory(thread_arena());
    const State state(memory, queries, p.keys, sizes);
    int64_t before = -1;
    for (int64_t i; (i = worker.take()) >= 0; before = i) {
      const BiasedTask& task = tasks[i];
      const bool packed = before >= 0 && task.has_keys_of(tasks[before]);
      attend<Products>(BiasedKeys<Format>(p, bias, task.b, task.kv_head),
                       BiasedQueries<Format>(p, bias, task), packed, state);
    }
  });
}

void biased_attention(const BiasedAttentionParams& params, const BiasChannels& bias) {
  with_products(params.dtype, [&]<class Format>() { run<Format>(params, bias); });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnpatch::kernels {

HWY_EXPORT(biased_attention);

void biased_attention_cpu(const BiasedAttentionParams& params) {
  if (params.batch * params.heads * params.queries * params.head_size == 0) return;
  HWY_DYNAMIC_DISPATCH(biased_attention)(params, BiasChannels(params));
}

}  // namespace attnpatch::kernels
#endif  // HWY_ONCE
