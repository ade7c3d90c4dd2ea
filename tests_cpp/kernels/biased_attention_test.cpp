// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/biased_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>

#include "bfloat16_tensors.h"
#include "biased_attention_problem.h"
#include "kernels/targets.h"
#include "real_threads.h"

namespace attnpatch::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class BiasedAttention : public testing::TestWithParam<std::tuple<std::string, BiasedCase>> {
 protected:
  void SetUp() override { force_cpu_target(std::get<0>(GetParam())); }
  void TearDown() override { force_cpu_target(""); }
  const BiasedCase& shape() const { return std::get<1>(GetParam()); }
};

TEST_P(BiasedAttention, EqualsTheFormula) {
  const BiasedProblem problem(shape());
  biased_attention_cpu(problem.params());
  EXPECT_LT(problem.largest_error(), 5e-6);
}

void run_in_bfloat16(BiasedProblem& problem) {
  BiasedAttentionParams p = problem.params();
  BFloat16Tensors tensors;
  tensors.round_all(problem, p);
  biased_attention_cpu(p);
  BFloat16Tensors::read(p.out, problem.out);
}

// Results of up to about four are rounded to steps of 2^-6, and so may their weights be before.
TEST_P(BiasedAttention, InBFloat16EqualsTheFormula) {
  for (const double size : {1.0, 4.0}) {
    BiasedProblem problem(shape(), size);
    run_in_bfloat16(problem);
    EXPECT_LT(problem.largest_error(), 1.6e-2);
  }
}

TEST_P(BiasedAttention, KeepsItsAccuracyForLargeScores) {
  const BiasedProblem problem(shape(), 4.0);  // scores of around a hundred
  biased_attention_cpu(problem.params());
  EXPECT_LT(problem.largest_error(), 3e-4);
}

std::string name_of(const testing::TestParamInfo<std::tuple<std::string, BiasedCase>>& info) {
  return std::get<0>(info.param) + "_" + std::to_string(info.index);
}

INSTANTIATE_TEST_SUITE_P(Targets, BiasedAttention,
                         testing::Combine(testing::ValuesIn(cpu_targets()),
                                          testing::ValuesIn(kBiasedCases)),
                         name_of);

TEST(BiasedAttentionThreads, ChangeNothingAndAreAskedForOnce) {
  const BiasedCase shape{"runs for all", 2, 4, 2, 700, 200, 40, 2, true, true};
  const BiasedProblem alone(shape), together(shape);
  BiasedAttentionParams params = alone.params();
  params.threads = 1;
  biased_attention_cpu(params);
  params = together.params();
  RealThreads threads;
  threads.serve(params, 5);
  biased_attention_cpu(params);
  EXPECT_EQ(alone.out, together.out);
  EXPECT_EQ(threads.regions(), 1);
}

class BiasedAttentionEdges : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { force_cpu_target(GetParam()); }
  void TearDown() override { force_cpu_target(""); }
};

INSTANTIATE_TEST_SUITE_P(Targets, BiasedAttentionEdges, testing::ValuesIn(cpu_targets()));

// Every pair of a few factors, infinite ones among them: -inf, 0 · inf, +inf, and their sums.
TEST_P(BiasedAttentionEdges, InfinitiesAreThoseOfTheFormula) {
  for_all_infinities([](BiasedProblem& problem) {
    biased_attention_cpu(problem.params());
    EXPECT_LT(problem.largest_error(), 3e-6);
  });
}

TEST_P(BiasedAttentionEdges, InBFloat16InfinitiesAreThoseOfTheFormula) {
  for_all_infinities([](BiasedProblem& problem) {
    run_in_bfloat16(problem);
    EXPECT_LT(problem.largest_error(), 1.6e-2);
  });
}

TEST_P(BiasedAttentionEdges, BlocksOfKeysThatLeaveBeforeAndAfterThoseThatStay) {
  BiasedProblem problem({"three blocks", 1, 1, 1, 5, 384, 16, 1, true, true});
  for (int64_t n = 0; n < 5; ++n) problem.query_factor(n, 0) = 0.25f * static_cast<float>(n);
  for (int64_t m = 0; m < 384; ++m) problem.key_factor(m, 0) = m / 128 == 1 ? 1.0f : -kInfinity;
  biased_attention_cpu(problem.params());
  EXPECT_LT(problem.largest_error(), 3e-6);
}

TEST_P(BiasedAttentionEdges, AQueryThatAllKeysHaveLeftIsNoNumber) {
  BiasedProblem problem({"two blocks", 1, 1, 1, 2, 200, 8, 1, true, true});
  problem.query_factor(0, 0) = 0.0f;
  problem.query_factor(1, 0) = 1.0f;
  for (int64_t m = 0; m < 200; ++m) problem.key_factor(m, 0) = -kInfinity;
  biased_attention_cpu(problem.params());
  EXPECT_LT(problem.error(0, 0, 0), 3e-6);
  for (int64_t c = 8; c < 16; ++c) EXPECT_TRUE(std::isnan(problem.out[c]));
}

TEST_P(BiasedAttentionEdges, NaNInAFactorOfAQueryStaysInItsRow) {
  BiasedProblem problem({"two queries", 1, 1, 1, 2, 30, 8, 2, true, true});
  problem.query_factor(0, 1) = std::numeric_limits<float>::quiet_NaN();
  problem.key_factor(0, 1) = 0.0f;
  biased_attention_cpu(problem.params());
  EXPECT_TRUE(std::isnan(problem.out[0]));
  EXPECT_LT(problem.error(0, 0, 1), 3e-6);
}

}  // namespace
}  // namespace attnpatch::kernels
