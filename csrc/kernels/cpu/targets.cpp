// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/targets.h"

#include <hwy/highway.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/bfloat16_units.h"

#if ATTNPATCH_NEON_BF16 && defined(__APPLE__)
#include <sys/sysctl.h>
#elif ATTNPATCH_NEON_BF16
#include <sys/auxv.h>
#endif

namespace attnpatch::kernels {
namespace {

// Does the processor multiply pairs?
bool has_pairs() {
#if ATTNPATCH_AVX512_BF16
  return __builtin_cpu_supports("avx512bf16") != 0;
#elif ATTNPATCH_NEON_BF16 && defined(__APPLE__)
  int answer = 0;
  size_t size = sizeof(answer);
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &answer, &size, nullptr, 0) == 0 && answer != 0;
#elif ATTNPATCH_NEON_BF16
  constexpr unsigned long kBFloat16 = 1ul << 14;  // HWCAP2_BF16
  return (getauxval(AT_HWCAP2) & kBFloat16) != 0;
#else
  return false;
#endif
}

BFloat16Unit best_unit() {
  if (!has_pairs()) return BFloat16Unit::kNone;
#if ATTNPATCH_AMX
  if (amx::available()) return BFloat16Unit::kTiles;
#endif
  return BFloat16Unit::kPairs;
}

// Has a target of Highway code for more than kNone?
constexpr bool has_units(int64_t target) {
#if ATTNPATCH_AVX512_BF16
  return target <= HWY_AVX3;
#else
  return ATTNPATCH_NEON_BF16 && target != HWY_SCALAR && target != HWY_EMU128;
#endif
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
  const int64_t best = targets.front().highway;
  for (const BFloat16Unit one : {BFloat16Unit::kPairs, BFloat16Unit::kTiles}) {
    if (has_units(best) && one <= best_unit()) targets.insert(targets.begin(), {best, one});
  }
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
