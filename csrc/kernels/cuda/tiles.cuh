// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Tiles of a token grid, in device code.

#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/tiles.h"

namespace attnpatch::device {

struct Box {
  int top, left, height, width;
};

ATTNPATCH_DEVICE Box box_of(const Tiles& t, int tile) {
  const int top = tile / t.across * t.tile_height - t.offset_down;
  const int left = tile % t.across * t.tile_width - t.offset_right;
  const int y = max(top, 0), x = max(left, 0);
  return {y, x, min(top + t.tile_height, t.height) - y, min(left + t.tile_width, t.width) - x};
}

}  // namespace attnpatch::device
