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

// First, between, last: 0, 1, 2.
ATTNPATCH_DEVICE int kind_of(int number, int count) {
  return number == 0 ? 0 : number + 1 < count ? 1 : 2;
}

// A tile's pooled tokens, where they lie tile after tile.
struct PooledTile {
  int start, count;
};

ATTNPATCH_DEVICE PooledTile pooled_tile(const Tiles& t, const Pooled& p, int tile) {
  const int line = tile / t.across, column = tile - line * t.across;
  const int(&in_tile)[3] = p.in_tile[kind_of(line, t.down)];
  const int above = line == 0 ? 0 : p.in_line[0] + (line - 1) * p.in_line[1];
  const int beside = column == 0 ? 0 : in_tile[0] + (column - 1) * in_tile[1];
  return {above + beside, in_tile[kind_of(column, t.across)]};
}

// The tile that a pooled token lies in.
ATTNPATCH_DEVICE int tile_of_pooled(const Tiles& t, const Pooled& p, int index) {
  const int first = p.in_line[0];
  const int line = index < first ? 0 : 1 + (index - first) / p.in_line[1];
  const int rest = line == 0 ? index : index - first - (line - 1) * p.in_line[1];
  const int(&in_tile)[3] = p.in_tile[kind_of(line, t.down)];
  return line * t.across + (rest < in_tile[0] ? 0 : 1 + (rest - in_tile[0]) / in_tile[1]);
}

}  // namespace attnpatch::kernels::device
