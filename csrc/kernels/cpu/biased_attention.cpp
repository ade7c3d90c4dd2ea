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
#include "kernels/cpu/bias_channels.h"
#include "kernels/cpu/online_softmax-inl.h"
#include "kernels/cpu/online_tasks-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/scores-inl.h"
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
  const BiasChannels* channels;
  int64_t b;
  const T *k, *v;

  BiasedKeys(const BiasedAttentionParams& params, const BiasChannels& bias, int64_t of_row,
             int64_t kv_head)
      : p(&params),
        channels(&bias),
        b(of_row),
        k(head_of<T>(params.k, of_row, kv_head)),
        v(head_of<T>(params.v, of_row, kv_head)) {}

  int64_t count() const { return p->keys; }

  KeyRow<T> row(int64_t i) const {
    return {k + i * p->k.token_stride, v + i * p->v.token_stride, p->k.channel_stride,
            p->v.channel_stride};
  }

  const float* bias(int64_t i) const { return channels->of_key(b, i); }
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
  const BiasChannels* channels;
  BiasedTask task;
  const T* first_q;
  T* first_out;

  BiasedQueries(const BiasedAttentionParams& params, const BiasChannels& bias,
                const BiasedTask& of_task)
      : p(&params),
        channels(&bias),
        task(of_task),
        first_q(head_of<T>(params.q, of_task.b, of_task.h)),
        first_out(const_cast<T*>(head_of<T>(params.out, of_task.b, of_task.h))) {}

  const AttentionView& q() const { return p->q; }
  const AttentionView& out() const { return p->out; }
  int64_t count() const { return task.end - task.begin; }
  const T* row(int64_t i) const { return first_q + (task.begin + i) * p->q.token_stride; }
  T* result(int64_t i) const { return first_out + (task.begin + i) * p->out.token_stride; }
  const float* bias(int64_t i) const { return channels->of_query(task.b, task.begin + i); }
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
  const auto lanes = ScoreLanes::of<typename Format::Products>(p.head_size, bias.count);
  const HeadSizes sizes{p.head_size, lanes, p.scale * kLog2E, bias.count, bias.width};
  run_online<Format>(
      p, tasks, OnlineDemand{queries, p.keys, work, sizes},
      [&](const BiasedTask& task) { return BiasedKeys<Format>(p, bias, task.b, task.kv_head); },
      [&](const BiasedTask& task) { return BiasedQueries<Format>(p, bias, task); });
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
