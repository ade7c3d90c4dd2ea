// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Branch attention on a CUDA device; skipped without one.

#include "converted_problem.h"
#include "gpu.h"
#include "values.h"

namespace attnpatch {
namespace {

class BranchAttentionCuda : public OnGpu<Case> {
 protected:
  template <typename T>
  static void expect_formula() {
    Problem problem(GetParam());
    round_inputs<T>(problem);
    if (!problem.branch_k.empty() && GetParam().batch > 1) {
      problem.weights[0][0] = 0.0f;
      problem.rows.back().back() = -1;
    }
    Converted<T, GpuMemory> converted(problem, kind_of<T>());
    branch_attention_cuda(converted.params(), nullptr);
    wait_for_gpu("branch_attention");
    converted.finish();
    EXPECT_LT(largest_error(problem), rounding<T>());
  }
};

TEST_P(BranchAttentionCuda, Float16EqualsTheFormula) { expect_formula<__half>(); }
TEST_P(BranchAttentionCuda, BFloat16EqualsTheFormula) { expect_formula<__nv_bfloat16>(); }
TEST_P(BranchAttentionCuda, Float32EqualsTheFormula) { expect_formula<float>(); }

INSTANTIATE_TEST_SUITE_P(Shapes, BranchAttentionCuda, testing::ValuesIn(kCases));

}  // namespace
}  // namespace attnpatch
