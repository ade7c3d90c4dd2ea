// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// A token grid cut in tiles, as CUDA kernels are given it; ../tiling.h is the same for the CPU.

#pragma once

#include "kernels/tiling.h"

namespace attnpatch::kernels::device {

struct Tiles {
  int height, width;              // of the grid
  int tile_height, tile_width;    // of a tile; those at the borders may be smaller
  int offset_down, offset_right;  // what of the first tiles lies outside the grid
  int count, across;              // tiles in all, and side by side
};

struct Stride {
  bool along_tokens;
  int down, across;  // along tokens: `across` alone counts
};

inline Tiles tiles_of(const Tiling& t) {
  const auto small = [](int64_t value) { return static_cast<int>(value); };
  return {small(t.height),     small(t.width),         small(t.tile_height),
          small(t.tile_width), small(t.offset_down),   small(t.offset_right),
          small(t.tiles()),    small(t.tiles_across())};
}

inline Stride stride_of(const PoolStride& s) {
  return {s.along_tokens, static_cast<int>(s.down), static_cast<int>(s.across)};
}

}  // namespace attnpatch::kernels::device
