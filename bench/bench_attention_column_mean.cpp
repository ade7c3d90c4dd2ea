// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The kernel alone, one thread, fp32, on the middle block's self-attention of SD1.5 (8 heads of
// 160) and SDXL (20 of 64): batch 2, of which `recorded` rows are recorded. `flops` is the rate of
// the arithmetic that attention needs.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "kernels/attention_column_mean.h"

namespace attnpatch::kernels {
namespace {

constexpr int64_t kBatch = 2;

std::vector<float> random_values(int64_t count) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

void attention_column_mean(benchmark::State& state) {
  const int64_t tokens = state.range(0), heads = state.range(1), size = state.range(2);
  const int64_t count = kBatch * tokens * heads * size;
  const std::vector<float> q = random_values(count), k = random_values(count),
                           v = random_values(count);
  std::vector<float> out(q.size()), column_mean(static_cast<size_t>(kBatch * tokens));
  const std::vector<int64_t> rows{0, 1};
  // A tensor (batch, tokens, heads, size), seen as (batch, heads, tokens, size).
  const auto view = [&](const std::vector<float>& values) {
    return AttentionView{values.data(), tokens * heads * size, size, heads * size, 1};
  };
  AttentionColumnMeanParams p;
  p.batch = kBatch;
  p.heads = p.kv_heads = heads;
  p.queries = p.keys = tokens;
  p.head_size = size;
  p.scale = 0.125f;
  p.q = view(q);
  p.k = view(k);
  p.v = view(v);
  p.out = view(out);
  p.rows = rows.data();
  p.recorded = state.range(3);
  p.column_mean = column_mean.data();
  p.parallel_for = [](int64_t tasks, const std::function<void(int64_t, int64_t)>& body) {
    body(0, tasks);
  };
  for (auto _ : state) {
    attention_column_mean_cpu(p);
    benchmark::ClobberMemory();
  }
  const auto flops = static_cast<double>(4 * count * tokens);
  state.counters["flops"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void sites(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"tokens", "heads", "size", "recorded"});
  constexpr int64_t kSites[][3] = {{64, 8, 160},  {144, 8, 160}, {256, 8, 160},  {1024, 8, 160},
                                   {256, 20, 64}, {576, 20, 64}, {1024, 20, 64}, {4096, 20, 64}};
  for (const auto& site : kSites) {
    for (const int64_t recorded : {0, 1, 2}) {
      benchmark->Args({site[0], site[1], site[2], recorded});
    }
  }
}

BENCHMARK(attention_column_mean)->Apply(sites)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace attnpatch::kernels
