// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The device code of branch attention, run on the CPU.

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "converted_problem.h"
#include "kernels/cuda/branch_attention.cuh"
#include "memory.h"

namespace attnpatch::kernels {
namespace {

template <typename T>
void run(const device::BranchAttentionPlan& plan) {
  const device::BranchAttentionArguments& a = plan.arguments;
  const device::Index grid{static_cast<unsigned>(plan.grid), static_cast<unsigned>(a.heads),
                           static_cast<unsigned>(a.batch)};
  device::with_size(a.head_size, [&](auto size) {
    device::launch(grid, device::kThreads, plan.shared_bytes,
                   [&] { device::branch_attention_half<T, size()>(a); });
  });
}

struct Machine {
  const char* name;
  device::DeviceLimits limits;
};

// On few multiprocessors a block goes through several tiles; where little memory is, keys pass.
const Machine kMachines[] = {{"large", {226 << 10, 224 << 10, 132}},
                             {"small", {32 << 10, 32 << 10, 1}},
                             {"one_processor", {98 << 10, 196 << 10, 1}},
                             {"room_for_one_tile", {98 << 10, 84 << 10, 1}}};

device::BranchAttentionPlan plan_for(const BranchAttentionParams& params, const Machine& machine) {
  return device::plan_branch_attention(params, machine.limits, [](size_t) { return 2; });
}

template <typename T>
void expect_formula(const Case& shape, Dtype dtype, const Machine& machine, double bound) {
  Problem problem(shape);
  round_inputs<T>(problem);
  if (!problem.branch_k.empty() && problem.shape.batch > 1) {
    problem.weights[0][0] = 0.0f;
    problem.rows.back().back() = -1;
  }
  Converted<T, HostMemory> converted(problem, dtype);
  run<T>(plan_for(converted.params(), machine));
  converted.finish();
  EXPECT_LT(largest_error(problem), bound) << shape.why;
}

using Parameter = std::tuple<Machine, Case>;

// Results of up to about 3 are rounded to 11 and 8 bits.
class BranchAttentionOnTensorCores : public testing::TestWithParam<Parameter> {};

TEST_P(BranchAttentionOnTensorCores, EqualsTheFormula) {
  const auto& [machine, shape] = GetParam();
  expect_formula<__half>(shape, Dtype::kFloat16, machine, 4e-3);
}

class BranchAttentionDevice : public testing::TestWithParam<Case> {};

TEST_P(BranchAttentionDevice, BFloat16EqualsTheFormula) {
  expect_formula<__nv_bfloat16>(GetParam(), Dtype::kBFloat16, kMachines[0], 3e-2);
}

INSTANTIATE_TEST_SUITE_P(Shapes, BranchAttentionDevice, testing::ValuesIn(kCases));

std::string name_of(const testing::TestParamInfo<Parameter>& info) {
  return std::string(std::get<0>(info.param).name) + "_" + std::to_string(info.index);
}

INSTANTIATE_TEST_SUITE_P(Machines, BranchAttentionOnTensorCores,
                         testing::Combine(testing::ValuesIn(kMachines), testing::ValuesIn(kCases)),
                         name_of);

// Of one batch row: nobody can raise an error on the device, and nothing outside is read.
TEST(BranchAttentionMissingRow, MakesTheResultNotANumber) {
  Problem problem({"two branches", 2, 1, 5, 8, 3, {4, 2}});
  problem.rows[1][0] = 3;
  Converted<__half, HostMemory> converted(problem, Dtype::kFloat16);
  run<__half>(plan_for(converted.params(), kMachines[2]));
  converted.finish();
  for (size_t i = 0; i < problem.out.size(); ++i) {
    EXPECT_EQ(std::isnan(problem.out[i]), i < problem.out.size() / 2);
  }
}

// Nor does a row of a branch that has none become one that is there.
TEST(BranchAttentionMissingRow, OfABranchWithoutAny) {
  Problem problem({"a branch", 2, 1, 5, 8, 3, {4}});
  problem.rows[0] = {0, -1};
  Converted<__half, HostMemory> converted(problem, Dtype::kFloat16);
  BranchAttentionParams params = converted.params();
  params.branches[0].row_count = 0;
  run<__half>(plan_for(params, kMachines[2]));
  converted.finish();
  for (size_t i = 0; i < problem.out.size(); ++i) {
    EXPECT_EQ(std::isnan(problem.out[i]), i < problem.out.size() / 2);
  }
}

class MaskedBranchAttentionDevice : public testing::TestWithParam<Case> {};

template <typename T>
void expect_nothing_where_masked(const Case& shape, Dtype dtype, double bound) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const bool keys : {true, false}) {
    for (const float factor : {nan, 16.0f}) {
      const Machine& machine = kMachines[keys ? 0 : 1];
      Problem problem(shape);
      problem.spoil_masked(keys ? problem.branch_k : problem.branch_v, factor);
      round_inputs<T>(problem);
      Converted<T, HostMemory> converted(problem, dtype);
      run<T>(plan_for(converted.params(), machine));
      converted.finish();
      EXPECT_LT(largest_error(problem), bound)
          << (keys ? "keys times " : "values times ") << factor;
    }
  }
}

TEST_P(MaskedBranchAttentionDevice, Float16) {
  expect_nothing_where_masked<__half>(GetParam(), Dtype::kFloat16, 4e-2);
}

template <typename T>
void expect_formula_of_turned_masks(const Case& shape, Dtype dtype, double bound) {
  Problem problem(shape);
  problem.turn_masks();
  round_inputs<T>(problem);
  Converted<T, HostMemory> converted(problem, dtype);
  run<T>(plan_for(converted.params(), kMachines[0]));
  converted.finish();
  EXPECT_LT(largest_error(problem), bound);
  EXPECT_EQ(std::isnan(problem.out[0]), shape.shared_softmax > 0);
}

TEST_P(MaskedBranchAttentionDevice, AShareOfASoftmaxBelowZeroGivesNoNumber) {
  expect_formula_of_turned_masks<__half>(GetParam(), Dtype::kFloat16, 4e-3);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MaskedBranchAttentionDevice, testing::ValuesIn(kMaskedCases));

TEST(BranchAttentionPlan, KeepsKeysWhereTheyFit) {
  Problem problem({"SDXL", 2, 10, 4096, 64, 77, {16}});
  BranchAttentionParams params = problem.params();
  params.dtype = Dtype::kFloat16;
  size_t asked = 0;
  const auto blocks = [&](size_t shared_bytes) {
    asked = shared_bytes;
    return 3;
  };
  const device::DeviceLimits large{162 << 10, 160 << 10, 108};
  const auto plan = device::plan_branch_attention(params, large, blocks);
  EXPECT_TRUE(plan.arguments.vectorized);
  EXPECT_EQ(plan.arguments.resident_rows, 96);
  EXPECT_EQ(plan.arguments.stages, 2);
  EXPECT_EQ(plan.shared_bytes, (2 * 96 + 2 * 64) * 72 * 2u);
  EXPECT_EQ(asked, plan.shared_bytes);
  EXPECT_EQ(plan.arguments.tiles_per_block, 4);  // 1280 tiles, 324 blocks at a time
  EXPECT_EQ(plan.grid, 16);
}

TEST(BranchAttentionPlan, KeepsNoMoreThanHalfOfTheSharedMemory) {
  Problem problem({"SDXL", 2, 10, 4096, 64, 77, {16}});
  BranchAttentionParams params = problem.params();
  params.dtype = Dtype::kFloat16;
  const auto plan = [&](int kib) {
    const size_t half = static_cast<size_t>(kib) << 10;
    const auto found =
        device::plan_branch_attention(params, {162 << 10, 2 * half, 108}, [](size_t) { return 2; });
    EXPECT_LE(found.shared_bytes, half);
    return std::pair(found.arguments.resident_rows, found.arguments.stages);
  };
  EXPECT_EQ(plan(45), std::pair(96, 2));
  EXPECT_EQ(plan(44), std::pair(96, 1));
  params.keys = 400;
  EXPECT_EQ(plan(63), std::pair(0, 2));
  EXPECT_EQ(plan(62), std::pair(0, 1));
}

TEST(BranchAttentionPlan, NeedsNoPlaceForANextTileWhereThereIsNone) {
  Problem problem({"one tile", 1, 1, 64, 64, 77, {16}});
  BranchAttentionParams params = problem.params();
  params.dtype = Dtype::kFloat16;
  for (const int64_t keys : {77, 4000}) {
    params.keys = keys;
    const auto plan = plan_for(params, kMachines[0]);
    EXPECT_EQ(plan.arguments.stages, 1);
    EXPECT_EQ(plan.shared_bytes, (2 * (keys == 77 ? 96 : 160) + 64) * 72 * 2u);
  }
}

TEST(BranchAttentionPlan, SaysWhatItCannotDo) {
  const auto message = [](const Case& shape, Dtype dtype) {
    Problem problem(shape);
    BranchAttentionParams params = problem.params();
    params.dtype = dtype;
    try {
      plan_for(params, kMachines[0]);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  EXPECT_EQ(message({"a wide head", 1, 1, 1, 192, 1, {}}, Dtype::kFloat16),
            "branch_attention on CUDA: got head size 192, expected at most 160");
  EXPECT_EQ(message({"one key", 1, 1, 1, 8, 1, {}}, Dtype::kFloat32),
            "branch_attention on CUDA: got float32, expected float16 or bfloat16");
  EXPECT_NE(message(kGroupedCases[0], Dtype::kFloat16).find("heads of keys, expected"),
            std::string::npos);
  EXPECT_EQ(message({"one key", 1, 1, 1, 8, 1, {}}, Dtype::kBFloat16), "none");
}

}  // namespace
}  // namespace attnpatch::kernels
