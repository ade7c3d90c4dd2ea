// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Tile attention and pooling, by CUDA kernels and by the CPU's.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <random>
#include <vector>

#include "kernels/pool_tokens.h"
#include "kernels/tile_attention.h"
#include "values.h"

namespace attnpatch::kernels {

struct TilingShape {
  const char* why;
  int64_t batch, heads, size;
  Tiling tiling;
  int64_t shared = 0;
  PoolStride stride = {false, 1, 1};
  bool pooled = false;
  int64_t window_down = 1, window_across = 1;
  float scale = NAN;  // 1 / sqrt(size)
};

inline void PrintTo(const TilingShape& shape, std::ostream* out) { *out << shape.why; }

inline const TilingShape kTilingShapes[] = {
    {"whole tiles, no shared keys", 1, 2, 40, {8, 8, 4, 4, 0, 0}},
    {"ragged at all borders, shared keys", 2, 1, 64, {11, 13, 5, 6, 3, 2}, 19},
    {"one tile that is the grid", 1, 1, 160, {9, 10, 9, 10, 0, 0}, 7},
    {"pooled over rows and columns", 2, 2, 32, {12, 10, 5, 4, 2, 1}, 5, {false, 2, 3}, true, 3, 3},
    {"pooled along tokens", 1, 2, 80, {7, 9, 4, 9, 1, 0}, 0, {true, 1, 4}, true, 1, 6},
    {"whole blocks of keys", 1, 1, 48, {16, 24, 16, 12, 0, 0}, 64},
    {"tiles of one column", 1, 1, 80, {40, 3, 40, 1, 0, 0}, 2},
    {"a tile much larger than the grid", 1, 1, 64, {5, 7, 100'000, 100'000, 7, 99'999}, 3},
    {"a negative scale", 1, 1, 64, {9, 9, 5, 5, 0, 0}, 3, {false, 1, 1}, false, 1, 1, -0.2f},
    {"no scale", 1, 1, 64, {9, 9, 5, 5, 0, 0}, 3, {false, 1, 1}, false, 1, 1, 0.0f},
    {"an odd head size", 1, 1, 21, {6, 5, 4, 3, 1, 1}, 3},
};

// Largest difference between what run(params) has computed and the CPU's kernel.
template <typename T, typename Memory, typename Run>
double tile_attention_error(const TilingShape& s, const Run& run) {
  std::mt19937 generator(5);
  const int64_t tokens = s.tiling.height * s.tiling.width, row = s.heads * s.size;
  TileAttentionParams cpu;
  cpu.batch = s.batch;
  cpu.heads = cpu.kv_heads = s.heads;
  cpu.head_size = s.size;
  cpu.scale = std::isnan(s.scale) ? 1.0f / std::sqrt(static_cast<float>(s.size)) : s.scale;
  cpu.tiling = s.tiling;
  if (s.pooled) {
    cpu.starts = pooled_starts(s.tiling, s.stride);
    cpu.stride = s.stride;
  }
  cpu.shared_tokens = s.shared;
  cpu.parallel_for = run_alone;
  TileAttentionParams cuda = cpu;
  cuda.dtype = dtype_of<T>();
  const int64_t own = s.pooled ? cpu.starts.back() : tokens;
  std::vector<Values<T, Memory>> memory;
  for (const int64_t count : {tokens, own, own, s.shared, s.shared}) {
    memory.emplace_back(s.batch * count * row, &generator);
  }
  Values<T, Memory> out(s.batch * tokens * row);
  const auto set = [&](AttentionView TileAttentionParams::*view, int64_t count,
                       Values<T, Memory>& values) {
    cpu.*view = {values.floats(), count * row, s.size, row, 1};
    cuda.*view = {values.typed(), count * row, s.size, row, 1};
  };
  set(&TileAttentionParams::q, tokens, memory[0]);
  set(&TileAttentionParams::k, own, memory[1]);
  set(&TileAttentionParams::v, own, memory[2]);
  set(&TileAttentionParams::shared_k, s.shared, memory[3]);
  set(&TileAttentionParams::shared_v, s.shared, memory[4]);
  set(&TileAttentionParams::out, tokens, out);
  tile_attention_cpu(cpu);
  run(cuda);
  return out.difference();
}

// Likewise, of all blends.
template <typename T, typename Memory, typename Run>
double pool_tokens_error(const TilingShape& s, bool largest, const Run& run) {
  std::mt19937 generator(6);
  const int64_t tokens = s.tiling.height * s.tiling.width, channels = s.heads * s.size;
  Values<T, Memory> x(s.batch * tokens * channels, &generator);
  PoolTokensParams cpu;
  cpu.batch = s.batch;
  cpu.channels = channels;
  cpu.batch_stride = tokens * channels;
  cpu.token_stride = channels;
  cpu.tiling = s.tiling;
  cpu.stride = s.stride;
  cpu.window_down = s.window_down;
  cpu.window_across = s.window_across;
  cpu.largest = largest;
  cpu.blends = {0.0f, 0.3f, 1.0f, 0.5f, 0.9f};  // more than one launch takes
  cpu.parallel_for = run_alone;
  PoolTokensParams cuda = cpu;
  cuda.dtype = dtype_of<T>();
  cpu.x = x.floats();
  cuda.x = x.typed();
  const int64_t pooled = pooled_starts(s.tiling, s.stride).back();
  std::vector<Values<T, Memory>> out;
  for (size_t i = 0; i < cpu.blends.size(); ++i) {
    out.emplace_back(s.batch * pooled * channels);
    cpu.out.push_back(out.back().floats());
    cuda.out.push_back(out.back().typed());
  }
  pool_tokens_cpu(cpu);
  run(cuda);
  double worst = 0.0;
  for (const auto& values : out) worst = std::max(worst, values.difference());
  return worst;
}

}  // namespace attnpatch::kernels
