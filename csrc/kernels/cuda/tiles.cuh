// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Tiles of a token grid, in device code.

#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/tiles.h"

namespace attnpatch::kernels::device {

struct Box {
  int top, left, height, width;
};

ATTNPATCH_DEVICE Box box_of(const Tiles& t, int tile) {
  const int top = tile / t.across * t.tile_height - t.offset_down;
  const int left = tile % t.across * t.tile_width - t.offset_right;
  const int y = max(top, 0), x = max(left, 0);
  return {y, x, min(top + t.tile_height, t.height) - y, min(left + t.tile_width, t.width) - x};
}

// Pooled tokens of a tile.
ATTNPATCH_DEVICE int pooled_in(const Stride& s, int height, int width) {
  if (s.along_tokens) return (height * width + s.across - 1) / s.across;
  return (height + s.down - 1) / s.down * ((width + s.across - 1) / s.across);
}

// Where pooled tokens lie, tile after tile. Of the tiles of a line the first and the last may be
// cut, and so may the first and the last line: all between are whole.
struct Pooled {
  const Tiles& t;
  const Stride& stride;

  ATTNPATCH_DEVICE int height_of(int line) const { return box_of(t, line * t.across).height; }

  // In a line of tiles so high, before this column.
  ATTNPATCH_DEVICE int before_column(int height, int column) const {
    if (column == 0) return 0;
    return pooled_in(stride, height, box_of(t, 0).width) +
           (column - 1) * pooled_in(stride, height, t.tile_width);
  }

  ATTNPATCH_DEVICE int in_line(int height) const {
    const int last = t.across - 1;
    return before_column(height, last) + pooled_in(stride, height, box_of(t, last).width);
  }

  ATTNPATCH_DEVICE int before_line(int line) const {
    if (line == 0) return 0;
    return in_line(height_of(0)) + (line - 1) * in_line(t.tile_height);
  }

  ATTNPATCH_DEVICE int before(int tile) const {
    const int line = tile / t.across;
    return before_line(line) + before_column(height_of(line), tile % t.across);
  }

  // The tile that a pooled token lies in.
  ATTNPATCH_DEVICE int tile_of(int index) const {
    const int first_line = in_line(height_of(0));
    const int line = index < first_line ? 0 : 1 + (index - first_line) / in_line(t.tile_height);
    const int height = height_of(line), rest = index - before_line(line);
    const int first = pooled_in(stride, height, box_of(t, 0).width);
    const int column =
        rest < first ? 0 : 1 + (rest - first) / pooled_in(stride, height, t.tile_width);
    return line * t.across + column;
  }
};

}  // namespace attnpatch::kernels::device
