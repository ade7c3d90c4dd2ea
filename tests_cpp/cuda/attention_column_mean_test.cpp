// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention with column means on a CUDA device; skipped without one.

#include "attention_column_mean_problem.h"
#include "gpu.h"

namespace attnpatch::kernels {
namespace {

class ColumnMeanCuda : public OnGpu<ColumnMeanShape> {
 protected:
  template <typename T>
  static void expect_formula() {
    ColumnMeanProblem<T, GpuMemory> problem(GetParam());
    GpuMemory scratch(attention_column_mean_cuda_scratch(problem.params()));
    attention_column_mean_cuda(problem.params(), scratch.data(), nullptr);
    wait_for_gpu("attention_column_mean");
    const auto [out, mean] = problem.errors();
    EXPECT_LT(out, rounding<T>());
    EXPECT_LT(mean, kColumnMeanBound);
  }
};

TEST_P(ColumnMeanCuda, Float16EqualsTheFormula) { expect_formula<__half>(); }
TEST_P(ColumnMeanCuda, BFloat16EqualsTheFormula) { expect_formula<__nv_bfloat16>(); }

INSTANTIATE_TEST_SUITE_P(Shapes, ColumnMeanCuda, testing::ValuesIn(kColumnMeanShapes));

}  // namespace
}  // namespace attnpatch::kernels
