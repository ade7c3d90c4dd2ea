// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The kernel alone, one thread, fp32, on latents of four channels under a mask of which half is
// set, on a grid eight times as coarse. `values` is the rate of results.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "kernels/blur_and_blend.h"

namespace attnpatch::kernels {
namespace {

constexpr int64_t kChannels = 4;

std::vector<float> random_values(int64_t count) {
  std::mt19937 generator(1);
  std::uniform_real_distribution<float> uniform(0.0f, 2.0f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = uniform(generator);
  return values;
}

void blur_and_blend(benchmark::State& state) {
  const int64_t batch = state.range(0), side = state.range(1), coarse = side / 8;
  const int64_t count = batch * kChannels * side * side;
  const std::vector<float> in = random_values(count);
  const std::vector<float> saliency = random_values(batch * coarse * coarse);
  std::vector<float> out(in.size());
  BlurAndBlendParams p;
  p.batch = batch;
  p.channels = kChannels;
  p.height = p.width = side;
  p.in = in.data();
  p.batch_stride = kChannels * side * side;
  p.channel_stride = side * side;
  p.row_stride = side;
  p.out = out.data();
  p.saliency = saliency.data();
  p.rows = p.columns = coarse;
  p.taps = gaussian_taps(2.0, 4);
  p.parallel_for = [](int64_t tasks, const std::function<void(int64_t, int64_t)>& body) {
    body(0, tasks);
  };
  for (auto _ : state) {
    blur_and_blend_cpu(p);
    benchmark::ClobberMemory();
  }
  state.counters["values"] =
      benchmark::Counter(static_cast<double>(count), benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK(blur_and_blend)
    ->ArgNames({"batch", "side"})
    ->ArgsProduct({{1, 4}, {64, 96, 128, 256}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace attnpatch::kernels
