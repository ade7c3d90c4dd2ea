// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The device code of biased attention, run on the CPU.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include "converted_biased_problem.h"
#include "kernels/cuda/biased_attention.cuh"
#include "memory.h"

namespace attnpatch::kernels {
namespace {

template <typename T>
void run(BiasedProblem& problem) {
  ConvertedBiased<T, HostMemory> converted(problem);
  const device::BiasedAttentionArguments a = device::arguments_of(converted.params());
  device::with_size(a.head_size, [&](auto size) {
    using Biased = device::BiasedFlash<T, size()>;
    constexpr int64_t kQueries = Biased::Core::kQueries;
    const device::Index grid{static_cast<unsigned>((a.queries + kQueries - 1) / kQueries),
                             static_cast<unsigned>(a.heads), static_cast<unsigned>(a.batch)};
    device::launch(grid, device::kThreads, Biased::shared_bytes(a.terms),
                   [&] { device::biased_attention_half<T, size()>(a); });
  });
  converted.finish();
}

class BiasedAttentionDevice : public testing::TestWithParam<BiasedCase> {
 protected:
  template <typename T>
  static void expect_formula(double bound, double scale = 1.0) {
    BiasedCase shape = GetParam();
    shape.kv_heads = shape.heads;
    BiasedProblem problem(shape, scale);
    run<T>(problem);
    EXPECT_LT(problem.largest_error(), bound);
  }
};

TEST_P(BiasedAttentionDevice, Float16EqualsTheFormula) { expect_formula<__half>(4e-3); }
TEST_P(BiasedAttentionDevice, BFloat16EqualsTheFormula) { expect_formula<__nv_bfloat16>(3e-2); }
TEST_P(BiasedAttentionDevice, KeepsItsAccuracyForLargeScores) { expect_formula<__half>(4e-3, 4.0); }

INSTANTIATE_TEST_SUITE_P(Shapes, BiasedAttentionDevice, testing::ValuesIn(kBiasedCases));

// Values lie apart in all ways: of factors, rows of one batch row for all, of channels.
TEST(BiasedAttentionEmulated, StridesAreObeyed) {
  BiasedProblem problem({"turned factors", 1, 2, 2, 19, 70, 16, 3, true, true});
  BiasedProblem turned = problem;
  ConvertedBiased<__half, HostMemory> converted(problem);
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t n = 0; n < 19; ++n) turned.u[r * 19 + n] = problem.query_factor(n, r);
    for (int64_t m = 0; m < 70; ++m) turned.w[r * 70 + m] = problem.key_factor(m, r);
  }
  ConvertedBiased<__half, HostMemory> other(turned);
  BiasedAttentionParams params = converted.params();
  params.query_bias = {other.params().query_bias.data, 0, 1, 19};
  params.key_bias = {other.params().key_bias.data, 0, 1, 70};
  const device::BiasedAttentionArguments a = device::arguments_of(params);
  using Biased = device::BiasedFlash<__half, 32>;
  device::launch({1, 2, 1}, device::kThreads, Biased::shared_bytes(3),
                 [&] { device::biased_attention_half<__half, 32>(a); });
  converted.finish();
  EXPECT_LT(problem.largest_error(), 4e-3);
}

TEST(BiasedAttentionEmulated, InfinitiesAreThoseOfTheFormula) {
  for_all_infinities([](BiasedProblem& problem) {
    run<__half>(problem);
    EXPECT_LT(problem.largest_error(), 4e-3) << problem.w[0] << ", " << problem.w[1];
  });
}

TEST(BiasedAttentionEmulated, BlocksOfKeysThatLeaveBeforeAndAfterThoseThatStay) {
  BiasedProblem problem({"three blocks", 1, 1, 1, 5, 192, 16, 1, true, true});
  for (int64_t n = 0; n < 5; ++n) problem.query_factor(n, 0) = 0.25f * static_cast<float>(n);
  for (int64_t m = 0; m < 192; ++m) problem.key_factor(m, 0) = m / 64 == 1 ? 1.0f : -INFINITY;
  run<__half>(problem);
  EXPECT_LT(problem.largest_error(), 4e-3);
}

TEST(BiasedAttentionEmulated, AQueryThatAllKeysHaveLeftIsNoNumber) {
  BiasedProblem problem({"two blocks", 1, 1, 1, 2, 100, 8, 1, true, true});
  problem.query_factor(0, 0) = 0.0f;
  problem.query_factor(1, 0) = 1.0f;
  for (int64_t m = 0; m < 100; ++m) problem.key_factor(m, 0) = -INFINITY;
  run<__half>(problem);
  EXPECT_LT(problem.error(0, 0, 0), 4e-3);
  for (int64_t c = 8; c < 16; ++c) EXPECT_TRUE(std::isnan(problem.out[c]));
}

TEST(BiasedAttentionEmulated, NaNInAFactorOfAQueryStaysInItsRow) {
  BiasedProblem problem({"two queries", 1, 1, 1, 2, 30, 8, 2, true, true});
  problem.query_factor(0, 1) = std::numeric_limits<float>::quiet_NaN();
  problem.key_factor(0, 1) = 0.0f;
  run<__half>(problem);
  EXPECT_TRUE(std::isnan(problem.out[0]));
  EXPECT_LT(problem.error(0, 0, 1), 4e-3);
}

TEST(BiasedAttentionEmulated, NaNInAFactorOfAKeyMakesAllResultsNotNumbers) {
  BiasedProblem problem({"two queries", 1, 1, 1, 2, 30, 8, 2, true, true});
  problem.key_factor(29, 1) = std::numeric_limits<float>::quiet_NaN();
  problem.query_factor(0, 1) = 0.0f;
  run<__half>(problem);
  for (const float value : problem.out) EXPECT_TRUE(std::isnan(value));
}

TEST(BiasedAttentionEmulated, ANegativeScaleAndNone) {
  for (const float scale : {-0.3f, 0.0f}) {
    BiasedProblem problem({"two blocks", 1, 1, 1, 20, 100, 8, 2, true, true});
    problem.scale = scale;
    run<__half>(problem);
    EXPECT_LT(problem.largest_error(), 4e-3) << scale;
  }
}

}  // namespace
}  // namespace attnpatch::kernels
