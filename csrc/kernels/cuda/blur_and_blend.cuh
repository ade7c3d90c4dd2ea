// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Device code of blur_and_blend; ../blur_and_blend.h has the formula. A block of threads makes a
// patch of kPatchHeight × kPatchWidth pixels of one channel: the patch and its surroundings,
// reflected at the borders, come to shared memory, are blurred along rows, then along columns.

#pragma once

#include "kernels/cuda/blur_and_blend_plan.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/limits.h"

namespace attnpatch::kernels::device {

ATTNPATCH_DEVICE int reflect(int place, int side) {
  if (side == 1) return 0;
  const int period = 2 * (side - 1);
  place %= period;
  if (place < 0) place += period;
  return min(place, period - place);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) blur_and_blend(BlurAndBlendArguments p) {
  const int64_t plane = blockIdx.z, b = plane / p.channels;
  const int left = static_cast<int>(blockIdx.x) * kPatchWidth;
  const int top = static_cast<int>(blockIdx.y) * kPatchHeight;
  const int r = p.radius, wide = kPatchWidth + 2 * r, high = kPatchHeight + 2 * r;
  const T* in =
      static_cast<const T*>(p.in) + b * p.batch_stride + plane % p.channels * p.channel_stride;
  auto* patch = reinterpret_cast<float*>(shared_memory());
  float* blurred = patch + high * wide;  // along rows
  for (int i = threadIdx.x; i < high * wide; i += kThreads) {
    const int y = reflect(top - r + i / wide, p.height), x = reflect(left - r + i % wide, p.width);
    patch[i] = to_float(in[y * p.row_stride + x * p.column_stride]);
  }
  sync_block();
  for (int i = threadIdx.x; i < high * kPatchWidth; i += kThreads) {
    const float* row = patch + i / kPatchWidth * wide + i % kPatchWidth + r;
    float sum = p.taps[0] * row[0];
    for (int j = 1; j <= r; ++j) sum += p.taps[j] * (row[-j] + row[j]);
    blurred[i] = sum;
  }
  sync_block();
  for (int i = threadIdx.x; i < kPatchHeight * kPatchWidth; i += kThreads) {
    const int row = i / kPatchWidth, column = i % kPatchWidth, y = top + row, x = left + column;
    if (y >= p.height || x >= p.width) continue;
    const int coarse_y = min(static_cast<int>(static_cast<float>(y) * p.row_scale), p.rows - 1);
    const int coarse_x =
        min(static_cast<int>(static_cast<float>(x) * p.column_scale), p.columns - 1);
    float value = patch[(row + r) * wide + column + r];
    if (p.saliency[(b * p.rows + coarse_y) * p.columns + coarse_x] > p.threshold) {
      const float* middle = blurred + (row + r) * kPatchWidth + column;
      value = p.taps[0] * middle[0];
      for (int j = 1; j <= r; ++j) {
        value += p.taps[j] * (middle[-j * kPatchWidth] + middle[j * kPatchWidth]);
      }
    }
    static_cast<T*>(p.out)[(plane * p.height + y) * p.width + x] = from_float<T>(value);
  }
}

}  // namespace attnpatch::kernels::device
