// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Blurring under a mask, by a CUDA kernel and by the CPU's.

#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <random>
#include <vector>

#include "kernels/blur_and_blend.h"
#include "values.h"

namespace attnpatch::kernels {

struct BlurShape {
  const char* why;
  int64_t batch, channels, height, width, rows, columns;
  double sigma;
  int64_t radius = 4;
};

inline void PrintTo(const BlurShape& shape, std::ostream* out) { *out << shape.why; }

inline const BlurShape kBlurShapes[] = {
    {"a latent and the grid of SD1.5's middle", 2, 4, 64, 64, 8, 8, 2.0},
    {"sides that nothing divides", 1, 3, 41, 53, 6, 7, 1.0},
    {"sides shorter than the kernel", 1, 1, 3, 2, 2, 1, 2.0},
    {"one pixel", 1, 4, 1, 1, 1, 1, 2.0},
    {"no blur", 1, 2, 9, 9, 3, 3, 0.0},
    {"a wide kernel", 1, 1, 40, 24, 5, 3, 9.0, 15},
    {"the widest kernel", 1, 1, 70, 9, 2, 2, 20.0, 32},
};

// Largest difference between what run(params) has computed and the CPU's kernel.
template <typename T, typename Memory, typename Run>
double blur_error(const BlurShape& s, const Run& run) {
  std::mt19937 generator(4);
  const int64_t count = s.batch * s.channels * s.height * s.width;
  Values<T, Memory> in(count, &generator), out(count);
  std::vector<float> numbers(static_cast<size_t>(s.batch * s.rows * s.columns));
  for (float& value : numbers) value = std::uniform_real_distribution<float>(0, 2)(generator);
  Values<float, Memory> saliency(numbers);
  BlurAndBlendParams cpu;
  cpu.batch = s.batch;
  cpu.channels = s.channels;
  cpu.height = s.height;
  cpu.width = s.width;
  cpu.batch_stride = s.channels * s.height * s.width;
  cpu.channel_stride = s.height * s.width;
  cpu.row_stride = s.width;
  cpu.rows = s.rows;
  cpu.columns = s.columns;
  cpu.taps = gaussian_taps(s.sigma, s.radius);
  cpu.parallel_for = run_alone;
  BlurAndBlendParams cuda = cpu;
  cuda.dtype = dtype_of<T>();
  cpu.in = in.floats();
  cpu.out = out.floats();
  cpu.saliency = saliency.floats();
  cuda.in = in.typed();
  cuda.out = out.typed();
  cuda.saliency = saliency.typed();
  blur_and_blend_cpu(cpu);
  run(cuda);
  return out.difference();
}

}  // namespace attnpatch::kernels
