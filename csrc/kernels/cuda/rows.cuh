// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Rows of channels, between global and shared memory.

#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/limits.h"
#include "kernels/views.h"

namespace attnpatch::kernels::device {

// Rows of one head. Row i is number i % columns of line i / columns, as in a rectangle of a grid;
// without columns all rows are on one line.
template <typename T>
struct Rows {
  const T* data;
  int64_t token_stride, channel_stride;
  int64_t line_stride = 0;
  int columns = 0;

  ATTNPATCH_DEVICE const T* row(int64_t i) const {
    if (columns == 0) return data + i * token_stride;
    const int place = static_cast<int>(i);  // dividing 64 bits takes several times as long
    return data + place / columns * line_stride + place % columns * token_stride;
  }
};

template <typename T>
ATTNPATCH_DEVICE Rows<T> rows_of(const AttentionView& view, int64_t batch, int64_t head) {
  const T* data =
      static_cast<const T*>(view.data) + batch * view.batch_stride + head * view.head_stride;
  return {data, view.token_stride, view.channel_stride};
}

// A row, and those after it some at a time: one division at the start, none later.
template <typename T>
struct RowWalk {
  const T* line;
  int64_t token_stride, line_stride;
  int column, columns;

  ATTNPATCH_DEVICE RowWalk(const Rows<T>& rows, int64_t first)
      : line(rows.data),
        token_stride(rows.token_stride),
        line_stride(rows.line_stride),
        column(static_cast<int>(first)),
        columns(rows.columns) {
    if (columns == 0) return;
    line += column / columns * line_stride;
    column %= columns;
  }

  ATTNPATCH_DEVICE const T* row() const { return line + column * token_stride; }

  ATTNPATCH_DEVICE void advance(int count) {
    column += count;
    if (columns == 0) return;
    for (; column >= columns; column -= columns) line += line_stride;
  }
};

// Which threads work together, and which of them this is.
struct Team {
  int thread, threads;
};

// Rows [first, first + count) to shared memory, kWidth + kPad values apart: zeros up to `rows` rows
// and kWidth channels. Where `vectorized`, pieces of 16 bytes are copied asynchronously; see
// wait_for_copies.
template <int kWidth, typename T>
ATTNPATCH_DEVICE void load_rows(T* to, const Rows<T>& from, int64_t first, int count, int rows,
                                int size, bool vectorized, Team team) {
  constexpr int kValues = 16 / sizeof(T), kStride = kWidth + kPad;
  if (vectorized) {
    // A thread keeps its channels; what is left of the team by whole rows has nothing to do.
    constexpr int kPieces = kWidth / kValues;
    const int at_once = team.threads / kPieces, channel = team.thread % kPieces * kValues;
    if (team.thread >= at_once * kPieces) return;
    RowWalk<T> walk(from, first + team.thread / kPieces);
    for (int row = team.thread / kPieces; row < rows; row += at_once, walk.advance(at_once)) {
      const bool there = row < count && channel < size;
      copy_async(to + row * kStride + channel, there ? walk.row() + channel : from.data, there);
    }
    return;
  }
  for (int i = team.thread; i < rows * kWidth; i += team.threads) {
    const int row = i / kWidth, channel = i % kWidth;
    T value = from_float<T>(0.0f);
    if (row < count && channel < size) {
      value = from.row(first + row)[channel * from.channel_stride];
    }
    to[row * kStride + channel] = value;
  }
}

// Rows in shared memory to [first, first + count) of the output.
template <int kWidth, typename T>
ATTNPATCH_DEVICE void store_rows(const Rows<T>& to, const T* from, int64_t first, int count,
                                 int size, bool vectorized, Team team) {
  constexpr int kStride = kWidth + kPad;
  if (vectorized) {
    constexpr int kPieces = kWidth / 8;
    const int at_once = team.threads / kPieces, channel = team.thread % kPieces * 8;
    if (team.thread >= at_once * kPieces || channel >= size) return;
    RowWalk<T> walk(to, first + team.thread / kPieces);
    for (int row = team.thread / kPieces; row < count; row += at_once, walk.advance(at_once)) {
      copy_piece(const_cast<T*>(walk.row()) + channel, from + row * kStride + channel);
    }
    return;
  }
  for (int i = team.thread; i < count * size; i += team.threads) {
    const int row = i / size, channel = i % size;
    const_cast<T*>(to.row(first + row))[channel * to.channel_stride] =
        from[row * kStride + channel];
  }
}

}  // namespace attnpatch::kernels::device
