// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Blurring under a mask on a CUDA device, against the CPU's kernel; skipped without one.

#include "blur_and_blend_problem.h"
#include "gpu.h"

namespace attnpatch::kernels {
namespace {

class BlurAndBlendCuda : public OnGpu<BlurShape> {
 protected:
  template <typename T>
  static void expect_same() {
    const auto run = [](const BlurAndBlendParams& params) {
      blur_and_blend_cuda(params, nullptr);
      wait_for_gpu("blur_and_blend");
    };
    EXPECT_LT((blur_error<T, GpuMemory>(GetParam(), run)), rounding<T>());
  }
};

TEST_P(BlurAndBlendCuda, Float16) { expect_same<__half>(); }
TEST_P(BlurAndBlendCuda, BFloat16) { expect_same<__nv_bfloat16>(); }
TEST_P(BlurAndBlendCuda, Float32) { expect_same<float>(); }

INSTANTIATE_TEST_SUITE_P(Shapes, BlurAndBlendCuda, testing::ValuesIn(kBlurShapes));

}  // namespace
}  // namespace attnpatch::kernels
