// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// A token grid cut in tiles, for device code; ../tiling.h is the same for the CPU.

#pragma once

#include "kernels/cuda/device.cuh"

namespace attnpatch::device {

struct Box {
  int top, left, height, width;
};

struct Tiles {
  int height, width;              // of the grid
  int tile_height, tile_width;    // of a tile; those at the borders may be smaller
  int offset_down, offset_right;  // what of the first tiles lies outside the grid
  int across;                     // tiles side by side

  ATTNPATCH_DEVICE Box box(int tile) const {
    const int top = tile / across * tile_height - offset_down;
    const int left = tile % across * tile_width - offset_right;
    const int y = max(top, 0), x = max(left, 0);
    return {y, x, min(top + tile_height, height) - y, min(left + tile_width, width) - x};
  }
};

// Every stride-th token of a tile: along its tokens, or along its rows and columns.
struct Pooled {
  bool any;
  bool along_tokens;
  int down, across;  // along its tokens: `across` alone counts

  ATTNPATCH_DEVICE int count(const Box& box) const {
    if (along_tokens) return (box.height * box.width + across - 1) / across;
    return (box.height + down - 1) / down * ((box.width + across - 1) / across);
  }
};

}  // namespace attnpatch::device
