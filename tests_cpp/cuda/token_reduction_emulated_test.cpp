// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The device code of tile attention and of pooling, run on the CPU, against the CPU's own kernels.

#include <gtest/gtest.h>

#include <ostream>
#include <utility>
#include <vector>

#include "kernels/cuda/pool_tokens.cuh"
#include "kernels/cuda/tile_attention.cuh"
#include "values.h"

namespace attnpatch {
namespace {

struct Shape {
  const char* why;
  int64_t batch, heads, size;
  Tiling tiling;
  int64_t shared = 0;
  PoolStride stride = {false, 1, 1};
  bool pooled = false;
  int64_t window_down = 1, window_across = 1;
};

void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.why; }

const Shape kShapes[] = {
    {"whole tiles, no shared keys", 1, 2, 40, {8, 8, 4, 4, 0, 0}},
    {"ragged at all borders, shared keys", 2, 1, 64, {11, 13, 5, 6, 3, 2}, 19},
    {"one tile that is the grid", 1, 1, 160, {9, 10, 9, 10, 0, 0}, 7},
    {"pooled over rows and columns", 2, 2, 32, {12, 10, 5, 4, 2, 1}, 5, {false, 2, 3}, true, 3, 3},
    {"pooled along tokens", 1, 2, 80, {7, 9, 4, 9, 1, 0}, 0, {true, 1, 4}, true, 1, 6},
    {"an odd head size", 1, 1, 21, {6, 5, 4, 3, 1, 1}, 3},
};

class TokenReductionDevice : public testing::TestWithParam<Shape> {
 protected:
  template <typename T>
  static void expect_same_attention(const Shape& s) {
    std::mt19937 generator(5);
    const int64_t tokens = s.tiling.height * s.tiling.width, row = s.heads * s.size;
    TileAttentionParams cpu;
    cpu.batch = s.batch;
    cpu.heads = s.heads;
    cpu.head_size = s.size;
    cpu.scale = 1.0f / std::sqrt(static_cast<float>(s.size));
    cpu.tiling = s.tiling;
    if (s.pooled) {
      cpu.starts = pooled_starts(s.tiling, s.stride);
      cpu.stride = s.stride;
    }
    cpu.shared_tokens = s.shared;
    cpu.parallel_for = run_alone;
    TileAttentionParams cuda = cpu;
    cuda.kind = kind_of<T>();
    const int64_t own = s.pooled ? cpu.starts.back() : tokens;
    std::vector<Values<T>> memory;
    for (const int64_t count : {tokens, own, own, s.shared, s.shared}) {
      memory.emplace_back(s.batch * count * row, &generator);
    }
    Values<T> out(s.batch * tokens * row);
    const auto set = [&](AttentionView TileAttentionParams::*view, int64_t count, Values<T>& v) {
      cpu.*view = {v.floats(), count * row, s.size, row, 1};
      cuda.*view = {v.typed(), count * row, s.size, row, 1};
    };
    set(&TileAttentionParams::q, tokens, memory[0]);
    set(&TileAttentionParams::k, own, memory[1]);
    set(&TileAttentionParams::v, own, memory[2]);
    set(&TileAttentionParams::shared_k, s.shared, memory[3]);
    set(&TileAttentionParams::shared_v, s.shared, memory[4]);
    set(&TileAttentionParams::out, tokens, out);
    tile_attention_cpu(cpu);
    launch<T>(device::arguments_of(cuda));
    EXPECT_LT(out.difference(), rounding<T>());
  }

  template <typename T>
  static void launch(const device::TileAttentionArguments& a) {
    const device::Index grid{static_cast<unsigned>(a.tiles.count * a.blocks_per_tile),
                             static_cast<unsigned>(a.heads), static_cast<unsigned>(a.batch)};
    if constexpr (std::is_same_v<T, float>) {
      device::launch(grid, device::kThreads, device::any_shared_bytes(a.head_size),
                     [&] { device::tile_attention_any<T>(a); });
    } else {
      device::with_size(a.head_size, [&](auto size) {
        device::launch(grid, device::kThreads, device::Flash<T, size()>::shared_bytes(),
                       [&] { device::tile_attention_half<T, size()>(a); });
      });
    }
  }

  template <typename T>
  static void expect_same_pooling(const Shape& s, bool largest) {
    std::mt19937 generator(6);
    const int64_t tokens = s.tiling.height * s.tiling.width, channels = s.heads * s.size;
    Values<T> x(s.batch * tokens * channels, &generator);
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
    cuda.kind = kind_of<T>();
    cpu.x = x.floats();
    cuda.x = x.typed();
    const int64_t pooled = pooled_starts(s.tiling, s.stride).back();
    std::vector<Values<T>> out(cpu.blends.size(), Values<T>(s.batch * pooled * channels));
    for (Values<T>& values : out) {
      cpu.out.push_back(values.floats());
      cuda.out.push_back(values.typed());
    }
    pool_tokens_cpu(cpu);
    for (size_t first = 0; first < cpu.blends.size(); first += device::kMostBlends) {
      const device::PoolTokensArguments a = device::arguments_of(cuda, first);
      device::launch({static_cast<unsigned>(pooled), static_cast<unsigned>(s.batch), 1},
                     device::kThreads, 0, [&] { device::pool_tokens<T>(a); });
    }
    for (Values<T>& values : out) EXPECT_LT(values.difference(), rounding<T>());
  }
};

TEST_P(TokenReductionDevice, AttentionInFloat16) { expect_same_attention<__half>(GetParam()); }
TEST_P(TokenReductionDevice, AttentionInBFloat16) {
  expect_same_attention<__nv_bfloat16>(GetParam());
}
TEST_P(TokenReductionDevice, AttentionInFloat32) { expect_same_attention<float>(GetParam()); }
TEST_P(TokenReductionDevice, MeansInFloat16) { expect_same_pooling<__half>(GetParam(), false); }
TEST_P(TokenReductionDevice, LargestInFloat32) { expect_same_pooling<float>(GetParam(), true); }

// The places that device code computes are those that the CPU counts up to.
void expect_places(const Tiling& tiling, const PoolStride& stride) {
  const std::vector<int64_t> starts = pooled_starts(tiling, stride);
  const device::Tiles tiles = device::tiles_of(tiling);
  const device::Stride small = device::stride_of(stride);
  const device::Pooled pooled{tiles, small};
  for (int tile = 0; tile < tiling.tiles(); ++tile) {
    ASSERT_EQ(pooled.before(tile), starts[tile]);
    for (int64_t i = starts[tile]; i < starts[tile + 1]; ++i) {
      ASSERT_EQ(pooled.tile_of(static_cast<int>(i)), tile);
    }
  }
}

TEST(PooledOnDevice, LiesWhereTheCpuPutsIt) {
  for (int64_t number = 0; number < 3000; ++number) {
    std::mt19937 generator(static_cast<unsigned>(number));
    const auto draw = [&](int64_t most) { return 1 + static_cast<int64_t>(generator() % most); };
    const int64_t high = draw(7), wide = draw(7);
    const Tiling tiling{draw(20), draw(20), high, wide, draw(high) - 1, draw(wide) - 1};
    expect_places(tiling, {number % 2 == 0, draw(4), draw(4)});
  }
  expect_places({128, 96, 3, 2, 1, 1}, {false, 2, 2});
}

INSTANTIATE_TEST_SUITE_P(Shapes, TokenReductionDevice, testing::ValuesIn(kShapes));

}  // namespace
}  // namespace attnpatch
