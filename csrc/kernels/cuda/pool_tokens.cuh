// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Device code of pool_tokens; ../pool_tokens.h has the formula. A thread makes a piece of a pooled
// token, kValues channels that lie side by side and are loaded at once, for all blends: x is read
// once. Pieces of 16 bytes where rows allow it, else of one channel.

#pragma once

#include "kernels/cuda/limits.h"
#include "kernels/cuda/pool_tokens_plan.h"
#include "kernels/cuda/tiles.cuh"

namespace attnpatch::kernels::device {

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

ATTNPATCH_DEVICE PoolWindow find_window(const PoolTokensArguments& p, int index) {
  const int tile = p.tiles.count == 1 ? 0 : tile_of_pooled(p.tiles, p.pooled, index);
  PoolWindow w{};
  w.box = box_of(p.tiles, tile);
  w.along_tokens = p.stride.along_tokens;
  const int place = tile == 0 ? index : index - pooled_tile(p.tiles, p.pooled, tile).start;
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

template <typename T, int kValues>
ATTNPATCH_DEVICE void load_piece(float (&values)[kValues], const T* from) {
  alignas(16) T raw[kValues];
  if constexpr (kValues == 1) {
    raw[0] = *from;
  } else {
    static_assert(sizeof(raw) == 16);
    copy_piece(raw, from);
  }
#pragma unroll
  for (int i = 0; i < kValues; ++i) values[i] = to_float(raw[i]);
}

template <typename T, int kValues>
ATTNPATCH_DEVICE void store_piece(T* to, const float (&values)[kValues]) {
  alignas(16) T raw[kValues];
#pragma unroll
  for (int i = 0; i < kValues; ++i) raw[i] = from_float<T>(values[i]);
  if constexpr (kValues == 1) {
    *to = raw[0];
  } else {
    copy_piece(to, raw);
  }
}

// The mean, or the largest, of one piece of the tokens of a window.
template <typename T, int kValues>
ATTNPATCH_DEVICE void pool_window(float (&pooled)[kValues], const T* channels,
                                  const PoolTokensArguments& p, const PoolWindow& window) {
#pragma unroll
  for (int i = 0; i < kValues; ++i) pooled[i] = p.largest ? -INFINITY : 0.0f;
  for (int row = 0; row < window.rows; ++row) {
    for (int column = 0; column < window.columns; ++column) {
      float values[kValues];
      load_piece(values, channels + window.token(row, column, p.tiles.width) * p.token_stride);
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        if (!p.largest) {
          pooled[i] += values[i];
        } else if (values[i] > pooled[i] || values[i] != values[i]) {
          pooled[i] = values[i];  // not a number stays
        }
      }
    }
  }
  if (p.largest) return;
  const auto count = static_cast<float>(window.rows * window.columns);
#pragma unroll
  for (int i = 0; i < kValues; ++i) pooled[i] /= count;
}

template <typename T, int kValues>
__global__ void __launch_bounds__(kThreads) pool_tokens(PoolTokensArguments p) {
  const unsigned number = blockIdx.x * kThreads + threadIdx.x;
  const auto pieces = static_cast<unsigned>(p.channels / kValues);
  const unsigned index = number / pieces;
  if (index >= p.pooled_tokens) return;
  const int64_t b = blockIdx.y, channel = number % pieces * kValues;
  const PoolWindow window = find_window(p, static_cast<int>(index));
  bool reads = false;
  for (int i = 0; i < p.blend_count; ++i) reads = reads || p.blends[i] != 0.0f;
  const T* channels = static_cast<const T*>(p.x) + b * p.batch_stride + channel * p.channel_stride;
  float one[kValues], values[kValues], pooled[kValues] = {};
  load_piece(one, channels + window.token(0, 0, p.tiles.width) * p.token_stride);
  if (reads) pool_window(pooled, channels, p, window);
  const int64_t place = (b * p.pooled_tokens + index) * p.channels + channel;
  for (int i = 0; i < p.blend_count; ++i) {
    const float blend = p.blends[i];
#pragma unroll
    for (int j = 0; j < kValues; ++j) {
      values[j] = blend == 0.0f   ? one[j]
                  : blend == 1.0f ? pooled[j]
                                  : one[j] + blend * (pooled[j] - one[j]);
    }
    store_piece(static_cast<T*>(p.out[i]) + place, values);
  }
}

}  // namespace attnpatch::kernels::device
