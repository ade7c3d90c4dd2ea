// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "rules/token_reduction.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace attnpatch::rules {
namespace {

void check_size(const char* name, GridSize size) {
  if (size.rows < 1 || size.columns < 1) {
    throw std::invalid_argument(std::string(name) + ": expected at least one row and column, got " +
                                std::to_string(size.rows) + " x " + std::to_string(size.columns));
  }
}

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Also for what no int holds.
int clamp_up(double x, int largest) {
  return static_cast<int>(std::clamp(std::ceil(x), 1.0, static_cast<double>(largest)));
}

// SplitMix64 (Steele, Lea, Flood 2014): from any number a well mixed one.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

}  // namespace

std::vector<int> pool_extent(double tokens, int dimensions, GridSize grid) {
  check_size("grid", grid);
  if (std::isnan(tokens)) throw std::invalid_argument("tokens: expected a number, got NaN");
  if (dimensions == 1) {
    const int64_t all = int64_t{grid.rows} * grid.columns;
    return {static_cast<int>(std::clamp(std::ceil(tokens), 1.0, static_cast<double>(all)))};
  }
  if (dimensions != 2) {
    throw std::invalid_argument("dimensions: expected 1 or 2, got " + std::to_string(dimensions));
  }
  const double rows = std::ceil(std::sqrt(std::max(tokens, 1.0)));
  // An infinity by an infinity is none.
  const double columns = std::isinf(tokens) ? tokens : tokens / rows;
  return {clamp_up(rows, grid.rows), clamp_up(columns, grid.columns)};
}

GridSize tile_shape(GridSize grid, int size) {
  check_size("grid", grid);
  if (size < 1) {
    throw std::invalid_argument("size: expected at least 1, got " + std::to_string(size));
  }
  const auto side = [size](int length) { return ceil_div(length, ceil_div(length, size)); };
  return {side(grid.rows), side(grid.columns)};
}

GridSize tile_offset(GridSize grid, GridSize tile, uint64_t seed, double timestep, uint64_t layer) {
  check_size("grid", grid);
  check_size("tile", tile);
  uint64_t state = mix(mix(mix(seed) ^ std::bit_cast<uint64_t>(timestep)) ^ layer);
  const auto draw = [&state](int length, int side) {
    const int beyond = ceil_div(length, side) * side - length;
    state = mix(state);
    return static_cast<int>(state % (static_cast<uint64_t>(beyond) + 1));
  };
  const int down = draw(grid.rows, tile.rows);
  return {down, draw(grid.columns, tile.columns)};
}

}  // namespace attnpatch::rules
