// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// A token grid cut in tiles, as CUDA kernels are given it; ../tiling.h is the same for the CPU.

#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/tiling.h"

namespace attnpatch::device {

constexpr int kMostTiles = 256;

struct Tiles {
  int height, width;              // of the grid
  int tile_height, tile_width;    // of a tile; those at the borders may be smaller
  int offset_down, offset_right;  // what of the first tiles lies outside the grid
  int count, across;              // tiles in all, and side by side
};

// Where each tile's pooled tokens begin; last, how many there are.
struct Starts {
  int first[kMostTiles + 1];
};

inline Tiles tiles_of(const Tiling& t) {
  const auto small = [](int64_t value) { return static_cast<int>(value); };
  return {small(t.height),     small(t.width),         small(t.tile_height),
          small(t.tile_width), small(t.offset_down),   small(t.offset_right),
          small(t.tiles()),    small(t.tiles_across())};
}

inline Starts starts_of(const char* kernel, const std::vector<int64_t>& starts) {
  if (starts.size() > kMostTiles + 1) {
    throw std::invalid_argument(std::string(kernel) + " on CUDA: got " +
                                std::to_string(starts.size() - 1) +
                                " pooled tiles, expected at most " + std::to_string(kMostTiles));
  }
  Starts to{};
  for (size_t i = 0; i < starts.size(); ++i) to.first[i] = static_cast<int>(starts[i]);
  return to;
}

}  // namespace attnpatch::device
