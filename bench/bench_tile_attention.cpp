// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The kernel alone, one thread, fp32, on self-attention sites of SD1.5 and SDXL: batch 2. `flops`
// is the rate of the arithmetic that attention over all keys needs.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "kernels/tile_attention.h"

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

// A tensor (batch, tokens, heads, size), seen as (batch, heads, tokens, size).
AttentionView view_of(const std::vector<float>& values, int64_t tokens, int64_t heads,
                      int64_t size) {
  return {values.data(), tokens * heads * size, size, heads * size, 1};
}

// Arguments: side of the grid, side of a tile, stride of each tile's own keys, shared keys, heads,
// head size.
void tile_attention(benchmark::State& state) {
  const int64_t side = state.range(0), tile = state.range(1), stride = state.range(2);
  const int64_t shared = state.range(3), heads = state.range(4), size = state.range(5);
  const int64_t tokens = side * side;
  TileAttentionParams p;
  p.batch = kBatch;
  p.heads = p.kv_heads = heads;
  p.head_size = size;
  p.scale = 0.125f;
  p.tiling = {side, side, tile, tile, 0, 0};
  if (stride > 1) p.starts = pooled_starts(p.tiling, {false, stride, stride});
  const int64_t own = stride > 1 ? p.starts.back() : tokens;
  const int64_t row = kBatch * heads * size;
  const auto q = random_values(tokens * row), k = random_values(own * row),
             v = random_values(own * row), shared_k = random_values(shared * row),
             shared_v = random_values(shared * row);
  std::vector<float> out(q.size());
  p.q = view_of(q, tokens, heads, size);
  p.k = view_of(k, own, heads, size);
  p.v = view_of(v, own, heads, size);
  p.shared_k = view_of(shared_k, shared, heads, size);
  p.shared_v = view_of(shared_v, shared, heads, size);
  p.shared_tokens = shared;
  p.out = view_of(out, tokens, heads, size);
  p.parallel_for = [](int64_t count, const std::function<void(int64_t, int64_t)>& body) {
    body(0, count);
  };
  for (auto _ : state) {
    tile_attention_cpu(p);
    benchmark::ClobberMemory();
  }
  int64_t pairs = 0;
  for (int64_t t = 0; t < p.tiling.tiles(); ++t) {
    const Rectangle tokens_of_tile = p.tiling.tile(t);
    pairs += tokens_of_tile.tokens() *
             (PoolStride{false, stride, stride}.pooled(tokens_of_tile) + shared);
  }
  state.counters["flops"] = benchmark::Counter(static_cast<double>(4 * row * pairs),
                                               benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK(tile_attention)
    ->ArgNames({"grid", "tile", "stride", "shared", "heads", "size"})
    ->Args({64, 32, 1, 484, 8, 40})
    ->Args({64, 32, 2, 121, 8, 40})
    ->Args({32, 16, 1, 121, 8, 80})
    ->Args({32, 16, 1, 121, 10, 64})
    ->Args({64, 32, 1, 484, 10, 64})
    ->Args({64, 32, 2, 121, 10, 64})
    ->Args({32, 16, 2, 36, 20, 64})
    ->Args({16, 16, 1, 0, 8, 160})
    ->Args({96, 24, 1, 484, 8, 40})
    ->Args({32, 8, 1, 36, 20, 64})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace attnpatch::kernels
