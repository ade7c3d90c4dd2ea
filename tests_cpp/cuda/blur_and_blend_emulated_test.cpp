// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The device code of blurring under a mask, run on the CPU, against the CPU's own kernel.

#include <gtest/gtest.h>

#include "blur_and_blend_problem.h"
#include "kernels/cuda/blur_and_blend.cuh"
#include "memory.h"

namespace attnpatch::kernels {
namespace {

template <typename T>
void run(const BlurAndBlendParams& params) {
  const device::BlurAndBlendArguments a = device::arguments_of(params);
  const device::Index grid{
      static_cast<unsigned>((a.width + device::kPatchWidth - 1) / device::kPatchWidth),
      static_cast<unsigned>((a.height + device::kPatchHeight - 1) / device::kPatchHeight),
      static_cast<unsigned>(a.batch * a.channels)};
  device::launch(grid, device::kThreads, device::shared_bytes(a),
                 [&] { device::blur_and_blend<T>(a); });
}

class BlurAndBlendDevice : public testing::TestWithParam<BlurShape> {
 protected:
  template <typename T>
  static void expect_same() {
    EXPECT_LT((blur_error<T, HostMemory>(GetParam(), run<T>)), rounding<T>());
  }
};

TEST_P(BlurAndBlendDevice, Float16) { expect_same<__half>(); }
TEST_P(BlurAndBlendDevice, BFloat16) { expect_same<__nv_bfloat16>(); }
TEST_P(BlurAndBlendDevice, Float32) { expect_same<float>(); }

INSTANTIATE_TEST_SUITE_P(Shapes, BlurAndBlendDevice, testing::ValuesIn(kBlurShapes));

}  // namespace
}  // namespace attnpatch::kernels
