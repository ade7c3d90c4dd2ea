// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What a processor multiplies bf16 with, beside the instruction set of a target: pairs in vectors
// (AVX512-BF16, Arm's bf16), tiles (AMX). Highway has no such targets in all its versions.

#pragma once

#include <hwy/highway.h>

// Can the compiler be given the instructions by their names?
#if HWY_ARCH_X86_64 && defined(__GNUC__) && !defined(_MSC_VER)
#define ATTNPATCH_AVX512_BF16 1
#else
#define ATTNPATCH_AVX512_BF16 0
#endif

#if HWY_ARCH_ARM_A64 && defined(__GNUC__) && (defined(__linux__) || defined(__APPLE__))
#define ATTNPATCH_NEON_BF16 1
#else
#define ATTNPATCH_NEON_BF16 0
#endif

// Tiles are asked for of the system.
#if ATTNPATCH_AVX512_BF16 && defined(__linux__)
#define ATTNPATCH_AMX 1
#else
#define ATTNPATCH_AMX 0
#endif

namespace attnpatch::kernels {

// Each has those before it, too.
enum class BFloat16Unit { kNone, kPairs, kTiles };

// What the machine has and is to be used (force_cpu_target).
BFloat16Unit bfloat16_unit();

}  // namespace attnpatch::kernels
