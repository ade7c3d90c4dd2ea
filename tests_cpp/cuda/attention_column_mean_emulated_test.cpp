// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The device code of attention with column means, run on the CPU.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention_column_mean_problem.h"
#include "kernels/cuda/attention_column_mean.cuh"
#include "memory.h"

namespace attnpatch::kernels {
namespace {

unsigned parts(int64_t count, int64_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

// body(arguments, recorded rows) for as many rows as one launch takes.
template <typename Body>
void for_recorded(const AttentionColumnMeanParams& params, void* scratch, const Body& body) {
  for (int64_t first = 0; first < params.recorded; first += device::kMostRecorded) {
    const auto a = device::arguments_of(params, scratch, first);
    body(a, static_cast<unsigned>(a.recorded));
  }
}

template <typename T>
void run(const AttentionColumnMeanParams& params) {
  // Noise, as on a device.
  std::vector<float> scratch(device::column_mean_scratch(params) / sizeof(float), NAN);
  const auto a = device::arguments_of(params, scratch.data());
  const auto heads = static_cast<unsigned>(a.heads), batch = static_cast<unsigned>(a.batch);
  device::with_size(a.head_size, [&](auto size) {
    using Core = device::Flash<T, size()>;
    device::launch({parts(a.queries, Core::kQueries), heads, batch}, device::kThreads,
                   Core::shared_bytes(), [&] { device::column_mean_attention_half<T, size()>(a); });
    for_recorded(params, scratch.data(), [&](const auto& some, unsigned recorded) {
      device::launch({parts(a.keys, Core::kKeys), heads, recorded}, device::kThreads,
                     Core::column_bytes(), [&] { device::column_sums_half<T, size()>(some); });
    });
  });
  for_recorded(params, scratch.data(), [&](const auto& some, unsigned recorded) {
    device::launch({parts(a.keys, device::kThreads), recorded, 1}, device::kThreads, 0,
                   [&] { device::mean_over_heads(some); });
  });
}

class ColumnMeanDevice : public testing::TestWithParam<ColumnMeanShape> {
 protected:
  template <typename T>
  static void expect_formula() {
    ColumnMeanProblem<T, HostMemory> problem(GetParam());
    run<T>(problem.params());
    const auto [out, mean] = problem.errors();
    EXPECT_LT(out, rounding<T>());
    EXPECT_LT(mean, kColumnMeanBound);
  }
};

TEST_P(ColumnMeanDevice, Float16EqualsTheFormula) { expect_formula<__half>(); }
TEST_P(ColumnMeanDevice, BFloat16EqualsTheFormula) { expect_formula<__nv_bfloat16>(); }

TEST(ColumnMeanScratch, IsForRecordedRowsAlone) {
  ColumnMeanProblem<__half, HostMemory> nothing({"", 1, 1, 17, 200, 40, {}});
  EXPECT_EQ(device::column_mean_scratch(nothing.params()), 0u);
  ColumnMeanProblem<__half, HostMemory> one({"", 2, 3, 17, 200, 40, {1}});
  EXPECT_EQ(device::column_mean_scratch(one.params()), 4u * 3 * (2 * 17 + 200));
}

INSTANTIATE_TEST_SUITE_P(Shapes, ColumnMeanDevice, testing::ValuesIn(kColumnMeanShapes));

}  // namespace
}  // namespace attnpatch::kernels
