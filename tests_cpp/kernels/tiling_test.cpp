// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/tiling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <ostream>
#include <string>
#include <vector>

namespace attnpatch::kernels {

void PrintTo(const Tiling& t, std::ostream* out) {
  *out << t.height << " x " << t.width << " in " << t.tile_height << " x " << t.tile_width << " at "
       << t.offset_down << ", " << t.offset_right;
}

namespace {

class Tilings : public testing::TestWithParam<Tiling> {};

TEST_P(Tilings, HoldEveryTokenOnce) {
  const Tiling& tiling = GetParam();
  std::vector<int> times(static_cast<size_t>(tiling.height * tiling.width), 0);
  for (int64_t t = 0; t < tiling.tiles(); ++t) {
    const Rectangle tile = tiling.tile(t);
    EXPECT_GE(tile.height, 1);
    EXPECT_GE(tile.width, 1);
    EXPECT_LE(tile.height, tiling.tile_height);
    EXPECT_LE(tile.width, tiling.tile_width);
    for (int64_t y = tile.top; y < tile.top + tile.height; ++y) {
      for (int64_t x = tile.left; x < tile.left + tile.width; ++x) ++times[y * tiling.width + x];
    }
  }
  EXPECT_EQ(std::count(times.begin(), times.end(), 1), std::ssize(times));
}

TEST_P(Tilings, PooledTokensLieTileAfterTile) {
  const Tiling& tiling = GetParam();
  const std::vector<int64_t> starts = pooled_starts(tiling, {false, 3, 2});
  ASSERT_EQ(std::ssize(starts), tiling.tiles() + 1);
  for (int64_t t = 0; t < tiling.tiles(); ++t) {
    const Rectangle tile = tiling.tile(t);
    EXPECT_EQ(starts[t + 1] - starts[t], (tile.height + 2) / 3 * ((tile.width + 1) / 2));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Tilings,
                         testing::Values(Tiling{8, 8, 4, 4, 0, 0},      // all alike
                                         Tiling{9, 7, 4, 3, 0, 0},      // ragged at the end
                                         Tiling{9, 7, 4, 3, 3, 2},      // ragged at both ends
                                         Tiling{3, 4, 10, 9, 0, 0},     // larger than the grid
                                         Tiling{3, 4, 10, 9, 9, 8},     // and cut by the offset
                                         Tiling{1, 1, 1, 1, 0, 0},      // one token
                                         Tiling{5, 64, 1, 64, 0, 63}),  // one row, one column
                         [](const auto& info) { return std::to_string(info.index); });

TEST(PoolStrides, CountAlongTokensOrRowsAndColumns) {
  const Rectangle tile{0, 0, 3, 5};
  EXPECT_EQ((PoolStride{true, 1, 4}).pooled(tile), 4);
  EXPECT_EQ((PoolStride{false, 2, 4}).pooled(tile), 4);
  EXPECT_EQ((PoolStride{false, 1, 1}).pooled(tile), 15);
}

}  // namespace
}  // namespace attnpatch::kernels
