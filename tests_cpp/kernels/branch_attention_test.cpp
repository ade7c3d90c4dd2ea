// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/branch_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

#include "branch_attention_problem.h"
#include "kernels/targets.h"
#include "real_threads.h"

namespace attnpatch::kernels {
namespace {

class BranchAttention : public testing::TestWithParam<std::tuple<std::string, Case>> {
 protected:
  void SetUp() override { force_cpu_target(std::get<0>(GetParam())); }
  void TearDown() override { force_cpu_target(""); }
  const Case& shape() const { return std::get<1>(GetParam()); }
};

TEST_P(BranchAttention, EqualsTheFormula) {
  Problem problem(shape());
  branch_attention_cpu(problem.params());
  EXPECT_LT(largest_error(problem), 3e-6);
}

TEST_P(BranchAttention, KeepsItsAccuracyForLargeScores) {
  Problem problem(shape(), 4.0);  // scores of around a hundred
  branch_attention_cpu(problem.params());
  EXPECT_LT(largest_error(problem), 3e-4);
}

TEST_P(BranchAttention, LeavesOutBranchesOfWeightZeroOrWithoutARow) {
  Problem problem(shape());
  if (!problem.branch_k.empty()) {
    problem.weights[0][0] = 0.0f;
    problem.rows.back().back() = -1;
  }
  branch_attention_cpu(problem.params());
  EXPECT_LT(largest_error(problem), 3e-6);
}

std::string name_of(const testing::TestParamInfo<std::tuple<std::string, Case>>& info) {
  return std::get<0>(info.param) + "_" + std::to_string(info.index);
}

INSTANTIATE_TEST_SUITE_P(Targets, BranchAttention,
                         testing::Combine(testing::ValuesIn(cpu_targets()),
                                          testing::ValuesIn(kCases)),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Grouped, BranchAttention,
                         testing::Combine(testing::ValuesIn(cpu_targets()),
                                          testing::ValuesIn(kGroupedCases)),
                         name_of);

class MaskedBranchAttention : public BranchAttention {};

TEST_P(MaskedBranchAttention, NothingArrivesWhereAMaskIsZero) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float factor : {nan, 40.0f}) {
    Problem keys(shape());
    keys.spoil_masked(keys.branch_k, factor);
    branch_attention_cpu(keys.params());
    EXPECT_LT(largest_error(keys), 1e-4) << "keys times " << factor;
    Problem values(shape());
    values.spoil_masked(values.branch_v, factor);
    branch_attention_cpu(values.params());
    EXPECT_LT(largest_error(values), 1e-4) << "values times " << factor;
  }
}

TEST_P(MaskedBranchAttention, AShareOfASoftmaxBelowZeroGivesNoNumber) {
  Problem problem(shape());
  problem.turn_masks();
  branch_attention_cpu(problem.params());
  EXPECT_LT(largest_error(problem), 3e-6);
  EXPECT_EQ(std::isnan(problem.out[0]), shape().shared_softmax > 0);
}

INSTANTIATE_TEST_SUITE_P(Targets, MaskedBranchAttention,
                         testing::Combine(testing::ValuesIn(cpu_targets()),
                                          testing::ValuesIn(kMaskedCases)),
                         name_of);

TEST(BranchAttentionThreads, ChangeNothingAndAreAskedForOnce) {
  const Case shape{"lots and blocks for all", 2, 6, 901, 40, 77, {16, 150}, 1, true, 2};
  Problem alone(shape), together(shape);
  BranchAttentionParams params = alone.params();
  params.threads = 1;
  branch_attention_cpu(params);
  params = together.params();
  RealThreads threads;
  threads.serve(params, 5);
  branch_attention_cpu(params);
  EXPECT_EQ(alone.out, together.out);
  EXPECT_EQ(threads.regions(), 1);
}

TEST(BranchAttentionEdges, AWeightThatIsNoNumberDoesNotArriveWhereAMaskIsZero) {
  Problem problem({"two queries", 1, 1, 2, 8, 5, {2}, 0, true});
  problem.weights[0][0] = std::numeric_limits<float>::quiet_NaN();
  problem.masks[0] = {0.0f, 1.0f};
  branch_attention_cpu(problem.params());
  EXPECT_FALSE(std::isnan(problem.out[0]));
  EXPECT_TRUE(std::isnan(problem.out[8]));
}

TEST(BranchAttentionEdges, NaNInAQueryStaysInItsRow) {
  Problem problem({"two queries", 1, 1, 2, 8, 5, {2}});
  problem.q[0] = std::numeric_limits<float>::quiet_NaN();
  branch_attention_cpu(problem.params());
  EXPECT_TRUE(std::isnan(problem.out[0]));
  EXPECT_FALSE(std::isnan(problem.out[8]));
}

TEST(BranchAttentionEdges, NothingToDoIsNoError) {
  Problem problem({"no queries", 1, 1, 0, 8, 5, {}});
  branch_attention_cpu(problem.params());
  Problem none({"no keys", 1, 1, 3, 8, 0, {}});
  branch_attention_cpu(none.params());
  for (const float value : none.out) EXPECT_EQ(value, 0.0f);
}

TEST(Targets, AnUnknownNameIsAnErrorThatListsTheKnown) {
  try {
    force_cpu_target("Z80");
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find(cpu_targets().front()), std::string::npos);
  }
}

}  // namespace
}  // namespace attnpatch::kernels
