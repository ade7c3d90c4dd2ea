// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/branch_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

#include "bfloat16_tensors.h"
#include "branch_attention_problem.h"
#include "kernels/targets.h"
#include "real_threads.h"

namespace attnpatch::kernels {
namespace {

// Results of up to about six are rounded to steps of 2^-5, and so may their weights be before.
constexpr double kBFloat16Bound = 2.4e-2;

void run_in_bfloat16(Problem& problem, int64_t threads = 2) {
  BranchAttentionParams p = problem.params();
  BFloat16Tensors tensors;
  tensors.round_all(problem, p);
  for (size_t i = 0; i < p.branches.size(); ++i) {
    tensors.round(problem.branch_k[i], p.branches[i].k);
    tensors.round(problem.branch_v[i], p.branches[i].v);
  }
  RealThreads real;
  if (threads == 1) {
    p.threads = 1;
  } else {
    real.serve(p, threads);
  }
  branch_attention_cpu(p);
  BFloat16Tensors::read(p.out, problem.out);
}

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

TEST_P(BranchAttention, InBFloat16EqualsTheFormula) {
  Problem problem(shape());
  run_in_bfloat16(problem);
  EXPECT_LT(largest_error(problem), kBFloat16Bound);
}

TEST_P(BranchAttention, InBFloat16KeepsItsAccuracyForLargeScores) {
  Problem problem(shape(), 4.0);
  run_in_bfloat16(problem);
  EXPECT_LT(largest_error(problem), kBFloat16Bound);
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

TEST_P(MaskedBranchAttention, InBFloat16NothingArrivesWhereAMaskIsZero) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float factor : {nan, 40.0f}) {
    Problem keys(shape());
    keys.spoil_masked(keys.branch_k, factor);
    run_in_bfloat16(keys);
    EXPECT_LT(largest_error(keys), kBFloat16Bound) << "keys times " << factor;
    Problem values(shape());
    values.spoil_masked(values.branch_v, factor);
    run_in_bfloat16(values);
    EXPECT_LT(largest_error(values), 20 * kBFloat16Bound) << "values times " << factor;
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

TEST(BranchAttentionThreads, ChangeNothingInBFloat16) {
  const Case shape{"lots and blocks for all", 2, 6, 901, 40, 77, {16, 150}, 1, true, 2};
  Problem alone(shape), together(shape);
  run_in_bfloat16(alone, 1);
  run_in_bfloat16(together, 5);
  EXPECT_EQ(alone.out, together.out);
}

class BranchAttentionInBFloat16 : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { force_cpu_target(GetParam()); }
  void TearDown() override { force_cpu_target(""); }
};

INSTANTIATE_TEST_SUITE_P(Targets, BranchAttentionInBFloat16, testing::ValuesIn(cpu_targets()));

// An odd count of keys leaves half of a pair of them empty.
TEST_P(BranchAttentionInBFloat16, AnInfiniteValueArrivesAsItIs) {
  Problem problem({"two queries", 1, 1, 2, 9, 5, {}});
  problem.v[4 * 9 + 2] = std::numeric_limits<float>::infinity();
  run_in_bfloat16(problem);
  EXPECT_EQ(problem.out[2], std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isfinite(problem.out[1]) && std::isfinite(problem.out[3]));
}

TEST_P(BranchAttentionInBFloat16, NaNInAQueryStaysInItsRow) {
  Problem problem({"two queries", 1, 1, 2, 9, 5, {3}});
  problem.q[0] = std::numeric_limits<float>::quiet_NaN();
  run_in_bfloat16(problem);
  for (int64_t c = 0; c < 18; ++c) EXPECT_EQ(std::isnan(problem.out[c]), c < 9);
}

TEST_P(BranchAttentionInBFloat16, NaNInAKeyIsInAllRowsAndInAValueInItsChannel) {
  Problem keys({"two queries", 1, 1, 2, 9, 5, {}}), values(keys);
  keys.k[9] = values.v[9] = std::numeric_limits<float>::quiet_NaN();
  run_in_bfloat16(keys);
  run_in_bfloat16(values);
  for (int64_t c = 0; c < 18; ++c) {
    EXPECT_TRUE(std::isnan(keys.out[c]));
    EXPECT_EQ(std::isnan(values.out[c]), c % 9 == 0);
  }
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
