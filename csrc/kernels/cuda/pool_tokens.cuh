// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Device code of pool_tokens; ../pool_tokens.h has the formula. A block of threads makes one pooled
// token, for all blends at once: each thread reads some channels of the window's rows, which lie
// side by side, and writes them to every result. x is read once.

#pragma once

#include "kernels/cuda/limits.h"
#include "kernels/cuda/pool_tokens_plan.h"
#include "kernels/cuda/tiles.cuh"

namespace attnpatch::device {

// The window of a pooled token: `rows` lines of `columns` tokens; along tokens, one line that runs
// on through the tile's rows.
struct PoolWindow {
  Box box;
  int top, left, rows, columns;
  bool along_tokens;

  ATTNPATCH_DEVICE int64_t token(int y, int x, int grid_width) const {
    int row = top + y, column = left + x;
    if (along_tokens) {
      row = column / box.width;
      column %= box.width;
    }
    return int64_t{box.top + row} * grid_width + box.left + column;
  }
};

ATTNPATCH_DEVICE PoolWindow find_window(const PoolTokensArguments& p, int64_t index) {
  const Pooled pooled{p.tiles, p.stride};
  const int tile = pooled.tile_of(static_cast<int>(index));
  PoolWindow w{};
  w.box = box_of(p.tiles, tile);
  w.along_tokens = p.stride.along_tokens;
  const int place = static_cast<int>(index) - pooled.before(tile);
  if (w.along_tokens) {
    w.left = place * p.stride.across;
    w.rows = 1;
    w.columns = min(p.window_across, w.box.height * w.box.width - w.left);
    return w;
  }
  const int columns = (w.box.width + p.stride.across - 1) / p.stride.across;
  w.top = place / columns * p.stride.down;
  w.left = place % columns * p.stride.across;
  w.rows = min(p.window_down, w.box.height - w.top);
  w.columns = min(p.window_across, w.box.width - w.left);
  return w;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) pool_tokens(PoolTokensArguments p) {
  __shared__ PoolWindow window;
  const int64_t index = blockIdx.x, b = blockIdx.y;
  if (threadIdx.x == 0) window = find_window(p, index);
  sync_block();
  bool reads = false;
  for (int i = 0; i < p.blend_count; ++i) reads = reads || p.blends[i] != 0.0f;
  const T* x = static_cast<const T*>(p.x) + b * p.batch_stride;
  for (int64_t c = threadIdx.x; c < p.channels; c += kThreads) {
    const T* channel = x + c * p.channel_stride;
    const auto at = [&](int row, int column) {
      return to_float(channel[window.token(row, column, p.tiles.width) * p.token_stride]);
    };
    const float one = at(0, 0);
    float pooled = p.largest ? one : 0.0f;
    for (int row = 0; reads && row < window.rows; ++row) {
      for (int column = 0; column < window.columns; ++column) {
        const float value = at(row, column);
        if (!p.largest) {
          pooled += value;
        } else if (value > pooled || value != value) {
          pooled = value;  // not a number stays
        }
      }
    }
    if (!p.largest) pooled /= static_cast<float>(window.rows * window.columns);
    for (int i = 0; i < p.blend_count; ++i) {
      const float blend = p.blends[i];
      const float value = blend == 0.0f   ? one
                          : blend == 1.0f ? pooled
                                          : one + blend * (pooled - one);
      static_cast<T*>(p.out[i])[(b * p.pooled_tokens + index) * p.channels + c] =
          from_float<T>(value);
    }
  }
}

}  // namespace attnpatch::device
