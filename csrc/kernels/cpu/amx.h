// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// AMX: eight tiles of 16 rows of 64 bytes, by their instructions' names, so that the compiler needs
// no option for them.
//
//   C[16][16] += A[16][32] · B[32][16]
//
// C in fp32; A in bf16, row by row; B in bf16, [pair of rows][column][2]. Numbers below the
// smallest normal one count as 0.

#pragma once

#include "kernels/cpu/bfloat16_units.h"

#if ATTNPATCH_AMX

#include <cstdint>

namespace attnpatch::kernels::amx {

inline constexpr int64_t kRows = 16;         // of a tile
inline constexpr int64_t kTerms = 32;        // columns of A, rows of B
inline constexpr int64_t kTileFloats = 256;  // of memory for any tile

// Has the processor tiles of bf16, and does the system save them? Asks it to, for this process.
bool available();

// Sets this thread's tiles up, and leaves them as they were.
class Tiles {
 public:
  Tiles();
  ~Tiles();
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

 private:
  struct alignas(64) Configuration {
    uint8_t palette = 0, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };
  Configuration before_;
};

template <int Tile>
inline void zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(Tile));
}

// Rows lie `stride` bytes apart.
template <int Tile>
inline void load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(Tile) : "memory");
}

template <int Tile>
inline void store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(Tile) : "memory");
}

template <int C, int A, int B>
inline void multiply_add() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

// Two by two tiles of C, numbers 0 to 3, with A in 4 and 5 and B in 6 and 7; or the first M rows
// and N columns of them. Tiles of one operand lie `a_rows` or `b_columns` bytes apart.
template <int M, int N>
struct Block {
  static void zero() {
    amx::zero<0>();
    if (N == 2) amx::zero<1>();
    if (M == 2) amx::zero<2>();
    if (M == 2 && N == 2) amx::zero<3>();
  }

  // Of a matrix whose rows lie `stride` floats apart.
  static void load(const float* from, int64_t stride) {
    const int64_t bytes = 4 * stride;
    amx::load<0>(from, bytes);
    if (N == 2) amx::load<1>(from + kRows, bytes);
    if (M == 2) amx::load<2>(from + kRows * stride, bytes);
    if (M == 2 && N == 2) amx::load<3>(from + kRows * stride + kRows, bytes);
  }

  static void store(float* to, int64_t stride) {
    const int64_t bytes = 4 * stride;
    amx::store<0>(to, bytes);
    if (N == 2) amx::store<1>(to + kRows, bytes);
    if (M == 2) amx::store<2>(to + kRows * stride, bytes);
    if (M == 2 && N == 2) amx::store<3>(to + kRows * stride + kRows, bytes);
  }

  // a: 32 columns of a matrix whose rows lie `a_stride` numbers apart; b: packed tiles, the second
  // column's `b_apart` floats behind the first's.
  static void multiply_add(const uint16_t* a, int64_t a_stride, const float* b, int64_t b_apart) {
    amx::load<6>(b, 64);
    if (N == 2) amx::load<7>(b + b_apart, 64);
    amx::load<4>(a, 2 * a_stride);
    amx::multiply_add<0, 4, 6>();
    if (N == 2) amx::multiply_add<1, 4, 7>();
    if (M == 1) return;
    amx::load<5>(a + kRows * a_stride, 2 * a_stride);
    amx::multiply_add<2, 5, 6>();
    if (N == 2) amx::multiply_add<3, 5, 7>();
  }
};

}  // namespace attnpatch::kernels::amx

#endif  // ATTNPATCH_AMX
