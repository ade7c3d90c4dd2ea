// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Products of pairs of bf16, which a processor may have beside the instruction set of a target:
// AVX512-BF16. Highway has no such target in all its versions.

#pragma once

#include <hwy/highway.h>

// Can the compiler be given the instruction by its name?
#if HWY_ARCH_X86_64 && defined(__GNUC__) && !defined(_MSC_VER)
#define ATTNPATCH_AVX512_BF16 1
#else
#define ATTNPATCH_AVX512_BF16 0
#endif

namespace attnpatch::kernels {

// Has the machine that instruction, and is it to be used (force_cpu_target)?
bool bfloat16_pairs();

}  // namespace attnpatch::kernels
