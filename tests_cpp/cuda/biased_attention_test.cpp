// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Biased attention on a CUDA device; skipped without one.

#include "converted_biased_problem.h"
#include "gpu.h"

namespace attnpatch::kernels {
namespace {

class BiasedAttentionCuda : public OnGpu<BiasedCase> {
 protected:
  template <typename T>
  static void run(BiasedProblem& problem) {
    ConvertedBiased<T, GpuMemory> converted(problem);
    biased_attention_cuda(converted.params(), nullptr);
    wait_for_gpu("biased_attention");
    converted.finish();
  }

  template <typename T>
  static void expect_formula() {
    BiasedCase shape = GetParam();
    shape.kv_heads = shape.heads;
    BiasedProblem problem(shape);
    run<T>(problem);
    EXPECT_LT(problem.largest_error(), rounding<T>());
  }
};

TEST_P(BiasedAttentionCuda, Float16EqualsTheFormula) { expect_formula<__half>(); }
TEST_P(BiasedAttentionCuda, BFloat16EqualsTheFormula) { expect_formula<__nv_bfloat16>(); }

INSTANTIATE_TEST_SUITE_P(Shapes, BiasedAttentionCuda, testing::ValuesIn(kBiasedCases));

TEST_F(BiasedAttentionCuda, InfinitiesAreThoseOfTheFormula) {
  for_all_infinities([](BiasedProblem& problem) {
    run<__half>(problem);
    EXPECT_LT(problem.largest_error(), rounding<__half>());
  });
}

}  // namespace
}  // namespace attnpatch::kernels
