// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/targets.h"

#include <hwy/highway.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace attnpatch::kernels {
namespace {

// The targets that were compiled and that the machine has, one bit each, best first.
std::vector<int64_t> available_targets() {
  hwy::SetSupportedTargetsForTest(0);  // forget what was forced before
  return hwy::SupportedAndGeneratedTargets();
}

}  // namespace

std::vector<std::string> cpu_targets() {
  std::vector<std::string> names;
  for (const int64_t target : available_targets()) names.emplace_back(hwy::TargetName(target));
  return names;
}

void force_cpu_target(const std::string& name) {
  std::string known;
  int64_t forced = 0;
  for (const int64_t target : available_targets()) {
    if (name == hwy::TargetName(target)) forced = target;
    known += (known.empty() ? "" : ", ") + std::string(hwy::TargetName(target));
  }
  if (forced == 0 && !name.empty()) {
    throw std::invalid_argument("name: expected one of " + known + ", got \"" + name + "\"");
  }
  hwy::SetSupportedTargetsForTest(forced);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace attnpatch::kernels
