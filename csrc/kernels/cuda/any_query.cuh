// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention for any type and strides, with products in float32: four lanes a query, each with every
// fourth channel. Keys and values pass through shared memory a few at a time.

#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/limits.h"
#include "kernels/cuda/rows.cuh"

namespace attnpatch::kernels::device {

// Keys and values of one head.
template <typename T>
struct KeysValues {
  Rows<T> k, v;
  int count;
};

// The channels of one row that belong to a lane.
struct Quarter {
  static constexpr int kMine = kMostSize / 4;
  float c[kMine];

  // Calls body(i, channel) for this lane's channels.
  template <typename Body>
  static ATTNPATCH_DEVICE void each(int size, int part, const Body& body) {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      if (i * 4 + part < size) body(i, i * 4 + part);
    }
  }
};

ATTNPATCH_DEVICE float sum_over_quad(float value) {
  value += shuffle_xor(value, 1);
  return value + shuffle_xor(value, 2);
}

// Some rows of a head to shared memory as float32, `size` apart; all threads of the block take
// part.
template <typename T>
ATTNPATCH_DEVICE void load_floats(float* to, const Rows<T>& from, int64_t first, int count,
                                  int size) {
  for (int i = threadIdx.x; i < count * size; i += kThreads) {
    to[i] = to_float(from.row(first + i / size)[i % size * from.channel_stride]);
  }
}

// One query and the softmax that it is in.
struct AnyQuery {
  Quarter q, sums;
  float m, sum;

  template <typename T>
  ATTNPATCH_DEVICE void load(const T* row, int64_t channel_stride, float scale, int size,
                             int part) {
#pragma unroll
    for (int i = 0; i < Quarter::kMine; ++i) q.c[i] = 0.0f;
    Quarter::each(size, part, [&](int i, int channel) {
      q.c[i] = to_float(row[channel * channel_stride]) * scale;
    });
    begin();
  }

  ATTNPATCH_DEVICE void begin() {
    m = -INFINITY;
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < Quarter::kMine; ++i) sums.c[i] = 0.0f;
  }

  // Takes keys into the softmax, their exponentials times `factor`; none where that is 0. All
  // threads of the block come here together; `shared` has room for 2 kAnyKeys rows of floats.
  template <typename T>
  ATTNPATCH_DEVICE void attend(const KeysValues<T>& part_of, float factor, float* shared, int size,
                               int part) {
    float* values = shared + kAnyKeys * size;
    for (int start = 0; start < part_of.count; start += kAnyKeys) {
      const int count = min(kAnyKeys, part_of.count - start);
      sync_block();
      load_floats(shared, part_of.k, start, count, size);
      load_floats(values, part_of.v, start, count, size);
      sync_block();
      for (int key = 0; key < count; ++key) {
        float score = 0.0f;
        Quarter::each(size, part,
                      [&](int i, int channel) { score += q.c[i] * shared[key * size + channel]; });
        score = sum_over_quad(score);
        if (factor == 0.0f) continue;
        const float top = fmaxf(m, score);
        const float shift = top == -INFINITY ? 0.0f : top;  // -inf - -inf is NaN
        const float shrink = exp2_of(m - shift), e = exp2_of(score - shift) * factor;
        m = top;
        sum = sum * shrink + e;
        Quarter::each(size, part, [&](int i, int channel) {
          sums.c[i] = sums.c[i] * shrink + e * values[key * size + channel];
        });
      }
    }
  }
};

}  // namespace attnpatch::kernels::device
