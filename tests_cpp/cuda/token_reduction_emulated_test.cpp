// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The device code of tile attention and of pooling, run on the CPU, against the CPU's own kernels.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/pool_tokens.cuh"
#include "kernels/cuda/tile_attention.cuh"
#include "memory.h"
#include "token_reduction_problem.h"

namespace attnpatch::kernels {
namespace {

template <typename T>
void attend(const TileAttentionParams& params) {
  const device::TileAttentionArguments a = device::arguments_of(params);
  const device::Index grid{static_cast<unsigned>(a.tiles.count * a.blocks_per_tile),
                           static_cast<unsigned>(a.heads), static_cast<unsigned>(a.batch)};
  device::with_size(a.head_size, [&](auto size) {
    device::launch(grid, device::kThreads, device::Flash<T, size()>::shared_bytes(),
                   [&] { device::tile_attention_half<T, size()>(a); });
  });
}

template <typename T>
void pool(const PoolTokensParams& params) {
  for (size_t first = 0; first < params.blends.size(); first += device::kMostBlends) {
    const device::PoolTokensArguments a = device::arguments_of(params, first);
    constexpr int kValues = 16 / sizeof(T);
    const int64_t threads = device::pieces_of(a, a.vectorized ? kValues : 1);
    const device::Index grid{
        static_cast<unsigned>((threads + device::kThreads - 1) / device::kThreads),
        static_cast<unsigned>(params.batch), 1};
    device::launch(grid, device::kThreads, 0, [&] {
      a.vectorized ? device::pool_tokens<T, kValues>(a) : device::pool_tokens<T, 1>(a);
    });
  }
}

class TokenReductionDevice : public testing::TestWithParam<TilingShape> {
 protected:
  template <typename T>
  static void expect_same_attention() {
    EXPECT_LT((tile_attention_error<T, HostMemory>(GetParam(), attend<T>)), rounding<T>());
  }

  template <typename T>
  static void expect_same_pooling(bool largest) {
    EXPECT_LT((pool_tokens_error<T, HostMemory>(GetParam(), largest, pool<T>)), rounding<T>());
  }
};

TEST_P(TokenReductionDevice, AttentionInFloat16) { expect_same_attention<__half>(); }
TEST_P(TokenReductionDevice, AttentionInBFloat16) { expect_same_attention<__nv_bfloat16>(); }
TEST_P(TokenReductionDevice, MeansInFloat16) { expect_same_pooling<__half>(false); }
TEST_P(TokenReductionDevice, LargestInFloat32) { expect_same_pooling<float>(true); }

INSTANTIATE_TEST_SUITE_P(Shapes, TokenReductionDevice, testing::ValuesIn(kTilingShapes));

TEST(TileAttentionPlan, LaunchesNoBlocksBeyondTheGrid) {
  TileAttentionParams params;
  params.heads = params.kv_heads = 1;
  params.head_size = 64;
  params.dtype = Dtype::kFloat16;
  params.tiling = {64, 64, 1'000'000, 1'000'000, 0, 0};
  EXPECT_EQ(device::arguments_of(params).blocks_per_tile, 32);
  params.tiling = {64, 64, 1'000'000, 16, 0, 0};
  EXPECT_EQ(device::arguments_of(params).blocks_per_tile, 8);
  params.head_size = 80;
  EXPECT_EQ(device::arguments_of(params).blocks_per_tile, 16);
}

// Places that device code computes are those that one counts up to, tile after tile.
void expect_places(const Tiling& tiling, const PoolStride& stride) {
  const std::vector<int64_t> starts = pooled_starts(tiling, stride);
  const device::Tiles tiles = device::tiles_of(tiling);
  const device::Pooled pooled = device::pooled_of(tiling, stride);
  for (int tile = 0; tile < tiling.tiles(); ++tile) {
    const device::PooledTile found = device::pooled_tile(tiles, pooled, tile);
    ASSERT_EQ(found.start, starts[tile]);
    ASSERT_EQ(found.start + found.count, starts[tile + 1]);
    for (int64_t i = starts[tile]; i < starts[tile + 1]; ++i) {
      ASSERT_EQ(device::tile_of_pooled(tiles, pooled, static_cast<int>(i)), tile);
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

}  // namespace
}  // namespace attnpatch::kernels
