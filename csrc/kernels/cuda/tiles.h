// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// A token grid cut in tiles, as CUDA kernels are given it; ../tiling.h is the same for the CPU.

#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/tiling.h"

namespace attnpatch::kernels::device {

struct Tiles {
  int height, width;              // of the grid
  int tile_height, tile_width;    // of a tile; those at the borders may be smaller
  int offset_down, offset_right;  // what of the first tiles lies outside the grid
  int count, down, across;        // tiles in all, one below another, and side by side
};

struct Stride {
  bool along_tokens;
  int down, across;  // along tokens: `across` alone counts
};

inline Tiles tiles_of(const Tiling& t) {
  const auto small = [](int64_t value) { return static_cast<int>(value); };
  return {small(t.height),     small(t.width),        small(t.tile_height),
          small(t.tile_width), small(t.offset_down),  small(t.offset_right),
          small(t.tiles()),    small(t.tiles_down()), small(t.tiles_across())};
}

inline Stride stride_of(const PoolStride& s) {
  return {s.along_tokens, static_cast<int>(s.down), static_cast<int>(s.across)};
}

// How many pooled tokens tiles have. Of the tiles of a line the first and the last may be cut, and
// so may the first and the last line: all between are whole. So there are three kinds of lines and
// of columns.
struct Pooled {
  int in_tile[3][3], in_line[3];  // first, between, last
};

inline Pooled pooled_of(const Tiling& t, const PoolStride& stride) {
  const Rectangle first = t.tile(0), last = t.tile(t.tiles() - 1);
  const int64_t between_down = std::min(t.tile_height, t.height);
  const int64_t between_across = std::min(t.tile_width, t.width);
  const int64_t heights[3] = {first.height, between_down, last.height};
  const int64_t widths[3] = {first.width, between_across, last.width};
  Pooled pooled{};
  for (int line = 0; line < 3; ++line) {
    const auto count = [&](int column) {
      return static_cast<int>(stride.pooled({0, 0, heights[line], widths[column]}));
    };
    for (int column = 0; column < 3; ++column) pooled.in_tile[line][column] = count(column);
    const auto across = static_cast<int>(t.tiles_across());
    pooled.in_line[line] = count(0);
    if (across > 1) pooled.in_line[line] += (across - 2) * count(1) + count(2);
  }
  return pooled;
}

}  // namespace attnpatch::kernels::device
