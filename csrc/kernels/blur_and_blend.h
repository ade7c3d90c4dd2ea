// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// A Gaussian blur under a mask:
//
//   out[b,c,y,x] = blurred[b,c,y,x] where saliency[b,Y(y),X(x)] > threshold, else in[b,c,y,x]
//   blurred[y,x] = sum over i and j of g_i g_j in[reflect(y + i), reflect(x + j)]
//   g_i = exp(-i²/2σ²) / sum, |i| <= r
//
// reflect(i) bounces between the first and the last row (… 2 1 0 1 2 …), as often as it takes. Y
// and X are the nearest neighbour in the coarse grid, rounded down as torch does it in fp32.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/parallel.h"
#include "kernels/views.h"

namespace attnpatch::kernels {

struct BlurAndBlendParams : Threads {
  Dtype dtype = Dtype::kFloat32;  // of in and out
  int64_t batch = 0, channels = 0, height = 0, width = 0;

  const void* in = nullptr;
  int64_t batch_stride = 0, channel_stride = 0, row_stride = 0, column_stride = 1;  // of in
  void* out = nullptr;  // contiguous; written

  const float* saliency = nullptr;  // (batch, rows, columns), contiguous
  int64_t rows = 0, columns = 0;
  float threshold = 1.0f;

  std::vector<float> taps;  // g_0 … g_r
};

// g_0 … g_radius. Sigma 0: all of it in g_0. Sigma infinite: equal taps.
inline std::vector<float> gaussian_taps(double sigma, int64_t radius) {
  if (sigma == 0.0) return {1.0f};
  std::vector<double> taps;
  double sum = 0.0;
  for (int64_t i = 0; i <= radius; ++i) {
    // Divided first: the square of the smallest sigmas is zero.
    const double distance = static_cast<double>(i) / sigma;
    taps.push_back(std::exp(-0.5 * distance * distance));
    sum += (i == 0 ? 1.0 : 2.0) * taps.back();
  }
  std::vector<float> result(taps.size());
  std::transform(taps.begin(), taps.end(), result.begin(),
                 [&](double tap) { return static_cast<float>(tap / sum); });
  return result;
}

void blur_and_blend_cpu(const BlurAndBlendParams& params);

// The same where all data lies on the current CUDA device; `stream` is a cudaStream_t. Returns
// before the work is done. Throws where a launch fails, and for more than 33 taps.
void blur_and_blend_cuda(const BlurAndBlendParams& params, void* stream);

}  // namespace attnpatch::kernels
