// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the CUDA kernel of blur_and_blend is given.

#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "kernels/blur_and_blend.h"

namespace attnpatch::kernels::device {

constexpr int kPatchWidth = 32;
constexpr int kPatchHeight = 16;
constexpr int kMostTaps = 33;  // on one side, the middle included

struct BlurAndBlendArguments {
  int64_t batch, channels;
  int height, width;
  const void* in;
  int64_t batch_stride, channel_stride, row_stride, column_stride;
  void* out;  // contiguous
  const float* saliency;
  int rows, columns;
  float threshold;
  float row_scale, column_scale;  // rows / height and columns / width
  int radius;
  float taps[kMostTaps];
};

inline BlurAndBlendArguments arguments_of(const BlurAndBlendParams& params) {
  if (params.taps.size() > kMostTaps) {
    throw std::invalid_argument("blur_and_blend on CUDA: got kernel size " +
                                std::to_string(2 * params.taps.size() - 1) + ", expected at most " +
                                std::to_string(2 * kMostTaps - 1));
  }
  BlurAndBlendArguments a{};
  a.batch = params.batch;
  a.channels = params.channels;
  a.height = static_cast<int>(params.height);
  a.width = static_cast<int>(params.width);
  a.in = params.in;
  a.batch_stride = params.batch_stride;
  a.channel_stride = params.channel_stride;
  a.row_stride = params.row_stride;
  a.column_stride = params.column_stride;
  a.out = params.out;
  a.saliency = params.saliency;
  a.rows = static_cast<int>(params.rows);
  a.columns = static_cast<int>(params.columns);
  a.threshold = params.threshold;
  a.row_scale = static_cast<float>(params.rows) / static_cast<float>(params.height);
  a.column_scale = static_cast<float>(params.columns) / static_cast<float>(params.width);
  a.radius = static_cast<int>(params.taps.size()) - 1;
  for (size_t i = 0; i < params.taps.size(); ++i) a.taps[i] = params.taps[i];
  return a;
}

// A patch with its surroundings, and the same blurred along rows.
inline size_t shared_bytes(const BlurAndBlendArguments& a) {
  const size_t high = kPatchHeight + 2 * a.radius;
  return high * (2 * kPatchWidth + 2 * a.radius) * sizeof(float);
}

}  // namespace attnpatch::kernels::device
