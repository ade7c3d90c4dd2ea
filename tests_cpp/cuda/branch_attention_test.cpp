// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Branch attention on a CUDA device; skipped without one.

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <thread>
#include <vector>

#include "converted_problem.h"
#include "gpu.h"
#include "values.h"

namespace attnpatch::kernels {
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
    Converted<T, GpuMemory> converted(problem, dtype_of<T>());
    branch_attention_cuda(converted.params(), nullptr);
    wait_for_gpu("branch_attention");
    converted.finish();
    EXPECT_LT(largest_error(problem), rounding<T>());
  }
};

TEST_P(BranchAttentionCuda, Float16EqualsTheFormula) { expect_formula<__half>(); }
TEST_P(BranchAttentionCuda, BFloat16EqualsTheFormula) { expect_formula<__nv_bfloat16>(); }

INSTANTIATE_TEST_SUITE_P(Shapes, BranchAttentionCuda, testing::ValuesIn(kCases));

// Each call needs another amount of shared memory, beyond what a kernel has unasked.
TEST_F(BranchAttentionCuda, CallsOfSeveralThreadsDoNotTakeEachOthersMemory) {
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (const int64_t keys : {160, 400}) {
    threads.emplace_back([&failures, keys] {
      Problem problem({"", 1, 1, 16, 64, keys, {}});
      Converted<__half, GpuMemory> converted(problem, Dtype::kFloat16);
      for (int i = 0; i < 20000; ++i) {
        try {
          branch_attention_cuda(converted.params(), nullptr);
        } catch (const std::runtime_error&) {
          ++failures;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  wait_for_gpu("branch_attention");
  EXPECT_EQ(failures, 0);
}

}  // namespace
}  // namespace attnpatch::kernels
