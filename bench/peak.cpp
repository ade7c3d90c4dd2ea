// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Prints how many GFLOP/s one core does in multiply-adds whose operands never leave its registers:
// what no kernel can exceed, in fp32. The best of several short runs.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "peak.cpp"
#include <hwy/foreach_target.h>
// The order matters: the line above includes this file once per instruction set.
#include <hwy/highway.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>

HWY_BEFORE_NAMESPACE();
namespace attnpatch {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Sums enough to hide the latency, few enough for 16 registers.
constexpr int kSums = 12;

// Seconds of `steps` steps of kSums multiply-adds.
double seconds_of(int64_t steps, float* result) {
  const hn::ScalableTag<float> d;
  const auto a = hn::Set(d, result[0]), b = hn::Set(d, result[1]);
  hn::Vec<hn::ScalableTag<float>> sum[kSums];
  for (int i = 0; i < kSums; ++i) sum[i] = hn::Set(d, static_cast<float>(i));
  const auto start = std::chrono::steady_clock::now();
  for (int64_t step = 0; step < steps; ++step) {
    for (int i = 0; i < kSums; ++i) sum[i] = hn::MulAdd(a, sum[i], b);
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  auto all = sum[0];
  for (int i = 1; i < kSums; ++i) all = hn::Add(all, sum[i]);
  result[2] += hn::GetLane(all);
  return taken.count();
}

double peak() {
  constexpr int64_t kSteps = 1 << 20;
  float numbers[3] = {0.5f, 1.0f, 0.0f};
  double best = 1e9;
  for (int i = 0; i < 20; ++i) best = std::min(best, seconds_of(kSteps, numbers));
  if (numbers[2] == -1.0f) std::puts("");  // the sums are used
  const auto lanes = static_cast<double>(hn::MaxLanes(hn::ScalableTag<float>()));
  return 2.0 * lanes * kSums * static_cast<double>(kSteps) / best * 1e-9;
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnpatch {
HWY_EXPORT(peak);

double best_peak() { return HWY_DYNAMIC_DISPATCH(peak)(); }
}  // namespace attnpatch

int main() {
  std::printf("%.1f\n", attnpatch::best_peak());
  return 0;
}
#endif  // HWY_ONCE
