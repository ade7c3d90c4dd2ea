// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The kernel alone, one thread, fp32, on heads of diffusion transformers and of SDXL: batch 1.
// `flops` is the rate of the arithmetic that attention without a bias needs.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "kernels/biased_attention.h"

namespace attnpatch::kernels {
namespace {

std::vector<float> random_values(int64_t count) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

// Arguments: tokens, heads, head size, terms, and whether one key has left.
void biased_attention(benchmark::State& state) {
  const int64_t tokens = state.range(0), heads = state.range(1), size = state.range(2);
  const int64_t terms = state.range(3), row = heads * size;
  const auto q = random_values(tokens * row), k = random_values(tokens * row),
             v = random_values(tokens * row);
  std::vector<float> u(static_cast<size_t>(tokens * terms), 1.0f),
      w = random_values(tokens * terms);
  if (state.range(4) != 0) w[0] = -std::numeric_limits<float>::infinity();
  std::vector<float> out(q.size());
  const auto view = [&](const std::vector<float>& values) {
    return AttentionView{values.data(), tokens * row, size, row, 1};
  };
  BiasedAttentionParams p;
  p.batch = 1;
  p.heads = p.kv_heads = heads;
  p.queries = p.keys = tokens;
  p.head_size = size;
  p.scale = 0.088f;
  p.q = view(q);
  p.k = view(k);
  p.v = view(v);
  p.out = view(out);
  p.terms = terms;
  p.query_bias = {u.data(), 0, terms, 1};
  p.key_bias = {w.data(), 0, terms, 1};
  p.parallel_for = [](int64_t count, const std::function<void(int64_t, int64_t)>& body) {
    body(0, count);
  };
  for (auto _ : state) {
    biased_attention_cpu(p);
    benchmark::ClobberMemory();
  }
  state.counters["flops"] = benchmark::Counter(static_cast<double>(4 * row * tokens * tokens),
                                               benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK(biased_attention)
    ->ArgNames({"tokens", "heads", "size", "terms", "gone"})
    ->Args({4608, 2, 128, 0, 0})
    ->Args({4608, 2, 128, 1, 0})
    ->Args({4608, 2, 128, 1, 1})
    ->Args({4608, 2, 128, 4, 1})
    ->Args({4608, 2, 128, 16, 0})
    ->Args({4096, 2, 64, 1, 0})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace attnpatch::kernels
