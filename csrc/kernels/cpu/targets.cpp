// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/targets.h"

#include <hwy/highway.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/bfloat16_units.h"

namespace attnpatch::kernels {
namespace {

BFloat16Unit best_unit() {
#if ATTNPATCH_AVX512_BF16
  if (!__builtin_cpu_supports("avx512bf16")) return BFloat16Unit::kNone;
#endif
#if ATTNPATCH_AMX
  if (amx::available()) return BFloat16Unit::kTiles;
#endif
  return ATTNPATCH_AVX512_BF16 ? BFloat16Unit::kPairs : BFloat16Unit::kNone;
}

std::atomic<BFloat16Unit>& unit() {
  static std::atomic<BFloat16Unit> wanted{best_unit()};
  return wanted;
}

// One of Highway's targets, or one with products of bf16.
struct Target {
  int64_t highway;
  BFloat16Unit unit;

  std::string name() const {
    constexpr const char* kUnits[] = {"", "_BF16", "_AMX"};
    return hwy::TargetName(highway) + std::string(kUnits[static_cast<int>(unit)]);
  }
};

// The targets that were compiled and that the machine has, best first.
std::vector<Target> available_targets() {
  hwy::SetSupportedTargetsForTest(0);  // forget what was forced before
  std::vector<Target> targets;
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    targets.push_back({target, BFloat16Unit::kNone});
  }
#if ATTNPATCH_AVX512_BF16
  const int64_t best = targets.front().highway;
  for (const BFloat16Unit one : {BFloat16Unit::kPairs, BFloat16Unit::kTiles}) {
    if (best <= HWY_AVX3 && one <= best_unit()) targets.insert(targets.begin(), {best, one});
  }
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
  Target forced{0, best_unit()};
  for (const Target& target : available_targets()) {
    if (name == target.name()) forced = target;
    known += (known.empty() ? "" : ", ") + target.name();
  }
  if (forced.highway == 0 && !name.empty()) {
    throw std::invalid_argument("name: expected one of " + known + ", got \"" + name + "\"");
  }
  hwy::SetSupportedTargetsForTest(forced.highway);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  unit() = forced.unit;
}

BFloat16Unit bfloat16_unit() { return unit(); }

}  // namespace attnpatch::kernels
