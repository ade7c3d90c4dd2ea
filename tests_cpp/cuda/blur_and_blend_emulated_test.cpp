// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The device code of blurring under a mask, run on the CPU, against the CPU's own kernel.

#include <gtest/gtest.h>

#include <ostream>
#include <random>
#include <vector>

#include "kernels/cuda/blur_and_blend.cuh"
#include "values.h"

namespace attnpatch {
namespace {

struct Shape {
  const char* why;
  int64_t batch, channels, height, width, rows, columns;
  double sigma;
  int64_t radius = 4;
};

void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.why; }

const Shape kShapes[] = {
    {"a latent and the grid of SD1.5's middle", 2, 4, 64, 64, 8, 8, 2.0},
    {"sides that nothing divides", 1, 3, 41, 53, 6, 7, 1.0},
    {"sides shorter than the kernel", 1, 1, 3, 2, 2, 1, 2.0},
    {"one pixel", 1, 4, 1, 1, 1, 1, 2.0},
    {"no blur", 1, 2, 9, 9, 3, 3, 0.0},
    {"a wide kernel", 1, 1, 40, 24, 5, 3, 9.0, 15},
};

class BlurAndBlendDevice : public testing::TestWithParam<Shape> {
 protected:
  template <typename T>
  static void expect_same() {
    const Shape& s = GetParam();
    std::mt19937 generator(4);
    const int64_t count = s.batch * s.channels * s.height * s.width;
    Values<T> in(count, &generator), out(count);
    std::vector<float> saliency(s.batch * s.rows * s.columns);
    for (float& value : saliency) value = std::uniform_real_distribution<float>(0, 2)(generator);
    BlurAndBlendParams cpu;
    cpu.batch = s.batch;
    cpu.channels = s.channels;
    cpu.height = s.height;
    cpu.width = s.width;
    cpu.batch_stride = s.channels * s.height * s.width;
    cpu.channel_stride = s.height * s.width;
    cpu.row_stride = s.width;
    cpu.saliency = saliency.data();
    cpu.rows = s.rows;
    cpu.columns = s.columns;
    cpu.taps = gaussian_taps(s.sigma, s.radius);
    cpu.parallel_for = run_alone;
    BlurAndBlendParams cuda = cpu;
    cuda.kind = kind_of<T>();
    cpu.in = in.floats();
    cpu.out = out.floats();
    cuda.in = in.typed();
    cuda.out = out.typed();
    blur_and_blend_cpu(cpu);
    const device::BlurAndBlendArguments a = device::arguments_of(cuda);
    const device::Index grid{
        static_cast<unsigned>((s.width + device::kPatchWidth - 1) / device::kPatchWidth),
        static_cast<unsigned>((s.height + device::kPatchHeight - 1) / device::kPatchHeight),
        static_cast<unsigned>(s.batch * s.channels)};
    device::launch(grid, device::kThreads, device::shared_bytes(a),
                   [&] { device::blur_and_blend<T>(a); });
    EXPECT_LT(out.difference(), rounding<T>());
  }
};

TEST_P(BlurAndBlendDevice, Float16) { expect_same<__half>(); }
TEST_P(BlurAndBlendDevice, BFloat16) { expect_same<__nv_bfloat16>(); }
TEST_P(BlurAndBlendDevice, Float32) { expect_same<float>(); }

INSTANTIATE_TEST_SUITE_P(Shapes, BlurAndBlendDevice, testing::ValuesIn(kShapes));

}  // namespace
}  // namespace attnpatch
