// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cpu/amx.h"

#if ATTNPATCH_AMX

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace attnpatch::kernels::amx {
namespace {

// Does the processor have the tiles, and does the system know of them?
bool known() {
  unsigned int a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(1, 0, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0) return false;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned int kBFloat16 = 1u << 22, kTile = 1u << 24;
  if ((d & kBFloat16) == 0 || (d & kTile) == 0) return false;
  uint32_t low = 0, high = 0;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr uint32_t kStates = 3u << 17;
  return (low & kStates) == kStates;
}

}  // namespace

bool available() {
  static const bool kAnswer = [] {
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    return known() && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  }();
  return kAnswer;
}

Tiles::Tiles() {
  asm volatile("sttilecfg %0" : "=m"(before_));
  Configuration all;
  all.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    all.row_bytes[tile] = 64;
    all.rows[tile] = kRows;
  }
  asm volatile("ldtilecfg %0" ::"m"(all));
}

// A configuration of palette 0 gives the tiles back.
Tiles::~Tiles() { asm volatile("ldtilecfg %0" ::"m"(before_)); }

}  // namespace attnpatch::kernels::amx

#endif  // ATTNPATCH_AMX
