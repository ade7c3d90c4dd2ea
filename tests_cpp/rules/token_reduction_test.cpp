// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "rules/token_reduction.h"

#include <gtest/gtest.h>

#include <limits>
#include <ostream>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace attnpatch::rules {
namespace {

struct Extent {
  double tokens;
  int dimensions;
  GridSize grid;
  std::vector<int> expected;
};

void PrintTo(const Extent& e, std::ostream* out) { *out << e.tokens << " in " << e.dimensions; }

class PoolExtent : public testing::TestWithParam<Extent> {};

TEST_P(PoolExtent, IsInWholeNumbers) {
  const Extent& e = GetParam();
  EXPECT_EQ(pool_extent(e.tokens, e.dimensions, e.grid), e.expected);
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

INSTANTIATE_TEST_SUITE_P(
    Cases, PoolExtent,
    testing::Values(Extent{6.0, 2, {64, 64}, {3, 2}},         // 3 x 2 = 6
                    Extent{4.0, 2, {64, 64}, {2, 2}},         // a square
                    Extent{4.1, 2, {64, 64}, {3, 2}},         // just above
                    Extent{2.0, 2, {64, 64}, {2, 1}},         // rows come first
                    Extent{0.0, 2, {64, 64}, {1, 1}},         // never less than one token
                    Extent{50.0, 2, {4, 64}, {4, 7}},         // more rows than there are
                    Extent{50.0, 2, {64, 4}, {8, 4}},         // more columns than there are
                    Extent{kInfinity, 2, {5, 3}, {5, 3}},     // one token for all
                    Extent{5.2, 1, {8, 8}, {6}},              // rounded up
                    Extent{-1.0, 1, {8, 8}, {1}},             // never less than one token
                    Extent{kInfinity, 1, {9, 7}, {63}},       // one token for all
                    Extent{1e300, 2, {1000, 9}, {1000, 9}}),  // beyond any int
    [](const testing::TestParamInfo<Extent>& info) { return std::to_string(info.index); });

TEST(PoolExtentErrors, NameTheArgument) {
  EXPECT_THROW(pool_extent(2.0, 3, {8, 8}), std::invalid_argument);
  EXPECT_THROW(pool_extent(2.0, 1, {0, 8}), std::invalid_argument);
  EXPECT_THROW(pool_extent(std::numeric_limits<double>::quiet_NaN(), 1, {8, 8}),
               std::invalid_argument);
}

TEST(TileShape, CutsAsEvenlyAsItCan) {
  EXPECT_EQ(tile_shape({64, 64}, 32), (GridSize{32, 32}));
  EXPECT_EQ(tile_shape({96, 65}, 32), (GridSize{32, 22}));  // 65 columns are three of 22
  EXPECT_EQ(tile_shape({33, 20}, 32), (GridSize{17, 20}));
  EXPECT_EQ(tile_shape({7, 1}, 1), (GridSize{1, 1}));
  EXPECT_THROW(tile_shape({8, 8}, 0), std::invalid_argument);
  EXPECT_THROW(tile_shape({8, 0}, 8), std::invalid_argument);
}

TEST(TileOffset, StaysWithinWhatTheTilesHoldBeyondTheGridAndReachesAllOfIt) {
  std::set<std::pair<int, int>> found;
  for (int step = 0; step < 200; ++step) {
    const GridSize offset = tile_offset({33, 65}, {17, 22}, 1, 999.0 - step, 3);
    found.insert({offset.rows, offset.columns});
  }
  // 2 x 17 - 33 = 1, 3 x 22 - 65 = 1
  EXPECT_EQ(found, (std::set<std::pair<int, int>>{{0, 0}, {0, 1}, {1, 0}, {1, 1}}));
}

TEST(TileOffset, DependsOnSeedTimestepAndLayerAlone) {
  const GridSize grid{100, 100}, tile{99, 99};
  const GridSize offset = tile_offset(grid, tile, 1, 500.0, 2);
  EXPECT_EQ(tile_offset(grid, tile, 1, 500.0, 2), offset);
  EXPECT_NE(tile_offset(grid, tile, 2, 500.0, 2), offset);
  EXPECT_NE(tile_offset(grid, tile, 1, 500.5, 2), offset);
  EXPECT_NE(tile_offset(grid, tile, 1, 500.0, 3), offset);
}

TEST(TileOffset, IsZeroWhereTheTilesFit) {
  EXPECT_EQ(tile_offset({64, 64}, {32, 32}, 7, 3.0, 1), (GridSize{0, 0}));
}

}  // namespace
}  // namespace attnpatch::rules
