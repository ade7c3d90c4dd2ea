// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The kernel alone, one thread, fp32, on the tokens of SD1.5 and SDXL: batch 2, windows of 3 x 2
// tokens. `bytes_per_second` counts what is read and written once.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/pool_tokens.h"

namespace attnpatch::kernels {
namespace {

constexpr int64_t kBatch = 2;

// Arguments: side of the grid, channels, results (k and v inputs), 1 for the largest.
void pool_tokens(benchmark::State& state) {
  const int64_t side = state.range(0), channels = state.range(1), results = state.range(2);
  PoolTokensParams p;
  p.batch = kBatch;
  p.channels = channels;
  p.tiling = {side, side, side, side, 0, 0};
  p.stride = {false, 3, 2};
  p.window_down = 3;
  p.window_across = 2;
  p.largest = state.range(3) != 0;
  const std::vector<float> x(static_cast<size_t>(kBatch * side * side * channels), 1.0f);
  const auto written =
      static_cast<size_t>(kBatch * pooled_starts(p.tiling, p.stride).back() * channels);
  std::vector<std::vector<float>> out(static_cast<size_t>(results), std::vector<float>(written));
  for (auto& result : out) p.out.push_back(result.data());
  p.blends.assign(static_cast<size_t>(results), 0.5f);
  p.x = x.data();
  p.batch_stride = side * side * channels;
  p.token_stride = channels;
  p.parallel_for = [](int64_t count, const std::function<void(int64_t, int64_t)>& body) {
    body(0, count);
  };
  for (auto _ : state) {
    pool_tokens_cpu(p);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() *
                          static_cast<int64_t>(4 * (x.size() + out.size() * written)));
}

BENCHMARK(pool_tokens)
    ->ArgNames({"grid", "channels", "results", "largest"})
    ->Args({64, 320, 1, 0})
    ->Args({64, 320, 2, 0})
    ->Args({64, 320, 2, 1})
    ->Args({64, 640, 2, 0})
    ->Args({128, 320, 2, 0})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace attnpatch::kernels
