// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Branch attention on a CUDA device; skipped without one.

#include "kernels/branch_attention.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "converted_problem.h"
#include "kernels/cuda/launch.h"

namespace attnpatch {
namespace {

// Memory that the CPU and the device both reach.
template <typename T>
struct Managed {
  using value_type = T;  // NOLINT(readability-identifier-naming): what an allocator has
  T* allocate(size_t count) {
    void* memory = nullptr;
    device::check(cudaMallocManaged(&memory, count * sizeof(T)), "test");
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t) { cudaFree(memory); }
};

class BranchAttentionCuda : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "no CUDA device";
    }
  }

  template <typename T>
  static double error_of(const Case& shape, ScalarKind kind) {
    Problem problem(shape);
    round_inputs<T>(problem);
    if (!problem.branch_k.empty() && shape.batch > 1) {
      problem.weights[0][0] = 0.0f;
      problem.rows.back().back() = -1;
    }
    Converted<T, Managed<uint4>> converted(problem, kind);
    branch_attention_cuda(converted.params(), nullptr);
    device::check(cudaDeviceSynchronize(), "branch_attention");
    converted.finish();
    return largest_error(problem);
  }
};

// Results of up to about 3 are rounded to 11 and 8 bits.
TEST_P(BranchAttentionCuda, Float16EqualsTheFormula) {
  EXPECT_LT(error_of<__half>(GetParam(), ScalarKind::kFloat16), 4e-3);
}

TEST_P(BranchAttentionCuda, BFloat16EqualsTheFormula) {
  EXPECT_LT(error_of<__nv_bfloat16>(GetParam(), ScalarKind::kBFloat16), 3e-2);
}

TEST_P(BranchAttentionCuda, Float32EqualsTheFormula) {
  EXPECT_LT(error_of<float>(GetParam(), ScalarKind::kFloat32), 4e-6);
}

INSTANTIATE_TEST_SUITE_P(Shapes, BranchAttentionCuda, testing::ValuesIn(kCases));

}  // namespace
}  // namespace attnpatch
