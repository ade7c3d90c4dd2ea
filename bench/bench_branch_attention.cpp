// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The kernel alone, one thread, fp32, on the cross-attention sites of SD1.5 and SDXL: batch 2, 77
// text tokens. `flops` is the rate of the arithmetic that attention over all keys needs.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "kernels/branch_attention.h"

namespace attnpatch::kernels {
namespace {

constexpr int64_t kBatch = 2;
constexpr int64_t kTextTokens = 77;

struct Problem {
  std::vector<float> q, k, v, branch_k, branch_v, out;
  std::vector<int64_t> rows{0, 1};
  std::vector<float> weights{0.8f, 0.8f};
  BranchAttentionParams params;
};

std::vector<float> random_values(int64_t count) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

// A tensor (batch, tokens, heads, size), seen as (batch, heads, tokens, size).
AttentionView view_of(const std::vector<float>& values, int64_t tokens, int64_t heads,
                      int64_t size) {
  return {values.data(), tokens * heads * size, size, heads * size, 1};
}

Problem make_problem(int64_t queries, int64_t heads, int64_t size, int64_t image_tokens) {
  const int64_t row = kBatch * heads * size;
  Problem p{.q = random_values(queries * row),
            .k = random_values(kTextTokens * row),
            .v = random_values(kTextTokens * row),
            .branch_k = random_values(image_tokens * row),
            .branch_v = random_values(image_tokens * row),
            .out = std::vector<float>(static_cast<size_t>(queries * row)),
            .params = {}};
  BranchAttentionParams& a = p.params;
  a.batch = kBatch;
  a.heads = a.kv_heads = heads;
  a.queries = queries;
  a.head_size = size;
  a.keys = kTextTokens;
  a.scale = 0.125f;
  a.q = view_of(p.q, queries, heads, size);
  a.k = view_of(p.k, kTextTokens, heads, size);
  a.v = view_of(p.v, kTextTokens, heads, size);
  a.out = view_of(p.out, queries, heads, size);
  if (image_tokens > 0) {
    a.branches.push_back({.k = view_of(p.branch_k, image_tokens, heads, size),
                          .v = view_of(p.branch_v, image_tokens, heads, size),
                          .tokens = image_tokens,
                          .rows = p.rows.data(),
                          .weights = p.weights.data()});
  }
  a.parallel_for = [](int64_t count, const std::function<void(int64_t, int64_t)>& body) {
    body(0, count);
  };
  return p;
}

void branch_attention(benchmark::State& state) {
  const int64_t queries = state.range(0), heads = state.range(1), size = state.range(2);
  const int64_t image_tokens = state.range(3);
  const Problem problem = make_problem(queries, heads, size, image_tokens);
  for (auto _ : state) {
    branch_attention_cpu(problem.params);
    benchmark::ClobberMemory();
  }
  const auto flops =
      static_cast<double>(4 * kBatch * heads * queries * size * (kTextTokens + image_tokens));
  state.counters["flops"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void sites(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"queries", "heads", "size", "image_tokens"});
  constexpr int64_t kSites[][3] = {{4096, 8, 40}, {1024, 8, 80},  {256, 8, 160},
                                   {64, 8, 160},  {4096, 10, 64}, {1024, 20, 64}};
  for (const auto& site : kSites) {
    for (const int64_t image_tokens : {0, 4, 16, 257}) {
      benchmark->Args({site[0], site[1], site[2], image_tokens});
    }
  }
}

BENCHMARK(branch_attention)->Apply(sites)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace attnpatch::kernels
