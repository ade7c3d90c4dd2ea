// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// A token grid cut in tiles. The grid's tokens lie row by row; so do its tiles, and the tokens of a
// tile.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace attnpatch::kernels {

struct Rectangle {
  int64_t top = 0, left = 0, height = 0, width = 0;

  int64_t tokens() const { return height * width; }
};

struct Tiling {
  int64_t height = 0, width = 0;              // of the grid
  int64_t tile_height = 0, tile_width = 0;    // of a tile; those at the borders may be smaller
  int64_t offset_down = 0, offset_right = 0;  // what of the first tiles lies outside the grid

  int64_t tiles_down() const { return (height + offset_down + tile_height - 1) / tile_height; }
  int64_t tiles_across() const { return (width + offset_right + tile_width - 1) / tile_width; }
  int64_t tiles() const { return tiles_down() * tiles_across(); }

  Rectangle tile(int64_t index) const {
    const int64_t top = index / tiles_across() * tile_height - offset_down;
    const int64_t left = index % tiles_across() * tile_width - offset_right;
    const int64_t y = std::max<int64_t>(top, 0), x = std::max<int64_t>(left, 0);
    return {y, x, std::min(top + tile_height, height) - y, std::min(left + tile_width, width) - x};
  }
};

// Every stride-th token of a tile: along its tokens, or along its rows and columns.
struct PoolStride {
  bool along_tokens = false;
  int64_t down = 1, across = 1;  // along its tokens: `across` alone counts

  int64_t pooled(const Rectangle& tile) const {
    if (along_tokens) return (tile.tokens() + across - 1) / across;
    return (tile.height + down - 1) / down * ((tile.width + across - 1) / across);
  }
};

// Where each tile's pooled tokens begin when they lie tile after tile; last, how many there are.
inline std::vector<int64_t> pooled_starts(const Tiling& tiling, const PoolStride& stride) {
  std::vector<int64_t> starts{0};
  for (int64_t i = 0; i < tiling.tiles(); ++i) {
    starts.push_back(starts.back() + stride.pooled(tiling.tile(i)));
  }
  return starts;
}

}  // namespace attnpatch::kernels
