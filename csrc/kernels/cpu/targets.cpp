// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/targets.h"

#include <hwy/highway.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cpu/bfloat16_pairs.h"

namespace attnpatch::kernels {
namespace {

bool machine_has_pairs() {
#if ATTNPATCH_AVX512_BF16
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

std::atomic<bool>& pairs() {
  static std::atomic<bool> wanted{machine_has_pairs()};
  return wanted;
}

// One of Highway's targets, or one with products of bf16.
struct Target {
  int64_t highway;
  bool pairs;

  std::string name() const { return hwy::TargetName(highway) + std::string(pairs ? "_BF16" : ""); }
};

// The targets that were compiled and that the machine has, best first.
std::vector<Target> available_targets() {
  hwy::SetSupportedTargetsForTest(0);  // forget what was forced before
  std::vector<Target> targets;
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    targets.push_back({target, false});
  }
#if ATTNPATCH_AVX512_BF16
  const int64_t best = targets.front().highway;
  if (best <= HWY_AVX3 && machine_has_pairs()) targets.insert(targets.begin(), {best, true});
#endif
  return targets;
}

}  // namespace

std::vector<std::string> cpu_targets() {
  std::vector<std::string> names;
  for (const Target& target : available_targets()) names.push_back(target.name());
  return names;
}

void force_cpu_target(const std::string& name) {
  std::string known;
  Target forced{0, machine_has_pairs()};
  for (const Target& target : available_targets()) {
    if (name == target.name()) forced = target;
    known += (known.empty() ? "" : ", ") + target.name();
  }
  if (forced.highway == 0 && !name.empty()) {
    throw std::invalid_argument("name: expected one of " + known + ", got \"" + name + "\"");
  }
  hwy::SetSupportedTargetsForTest(forced.highway);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  pairs() = forced.pairs;
}

bool bfloat16_pairs() { return pairs(); }

}  // namespace attnpatch::kernels
