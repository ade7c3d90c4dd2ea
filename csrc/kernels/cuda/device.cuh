// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What device code is written in, beside the C++ of CUDA. The products and matrix loads are those
// of compute capability 8.0 and later.
//
// Fragments of a warp's product d (16, 8) += a (16, 16) b (16, 8), lane l = 4 g + t:
//   a: registers hold columns (2t, 2t + 1) of rows g and g + 8, then columns (2t + 8, 2t + 9) of
//   both b: registers hold rows (2t, 2t + 1) and (2t + 8, 2t + 9) of column g d: values hold
//   columns 2t and 2t + 1 of row g, then of row g + 8

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#define ATTNPATCH_DEVICE __device__ __forceinline__

namespace attnpatch::kernels::device {

constexpr int kWarpSize = 32;

ATTNPATCH_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char attnpatch_shared[];
  return attnpatch_shared;
}

ATTNPATCH_DEVICE void sync_block() { __syncthreads(); }
ATTNPATCH_DEVICE void sync_warp() { __syncwarp(); }

ATTNPATCH_DEVICE float shuffle_xor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// Whether it is so for a lane of this warp; all lanes come here.
ATTNPATCH_DEVICE bool any_of_warp(bool value) { return __any_sync(0xffffffffu, value) != 0; }

// Right to 2^-22, in one instruction; results below 2^-126 are 0.
ATTNPATCH_DEVICE float exp2_of(float value) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}
ATTNPATCH_DEVICE float log2_of(float value) { return log2f(value); }

// Four 8×8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8.
// Register i gets columns (2t, 2t + 1) of row g of matrix i.
ATTNPATCH_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// The same of transposed matrices: register i gets rows (2t, 2t + 1) of column g.
ATTNPATCH_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// 16 bytes from global to shared memory, or zeros; they are there after wait_for_copies, for others
// after meeting them as well.
ATTNPATCH_DEVICE void copy_async(void* to, const void* from, bool there) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int bytes = there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(address), "l"(from), "r"(bytes)
               : "memory");
}

// 4 bytes likewise.
ATTNPATCH_DEVICE void copy_word_async(void* to, const void* from, bool there) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int bytes = there ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
               :
               : "r"(address), "l"(from), "r"(bytes)
               : "memory");
}

// Ends a group of copies.
ATTNPATCH_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all copies of this thread.
ATTNPATCH_DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Waits for all but the latest group.
ATTNPATCH_DEVICE void wait_for_earlier_copies() {
  asm volatile("cp.async.wait_group 1;" ::: "memory");
}

template <typename T>
ATTNPATCH_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                   uint32_t b1) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// Copies 16 bytes between places at multiples of 16, in one instruction each way.
ATTNPATCH_DEVICE void copy_piece(void* to, const void* from) {
  memcpy(__builtin_assume_aligned(to, 16), __builtin_assume_aligned(from, 16), 16);
}

ATTNPATCH_DEVICE float to_float(float value) { return value; }
ATTNPATCH_DEVICE float to_float(__half value) { return __half2float(value); }
ATTNPATCH_DEVICE float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
ATTNPATCH_DEVICE T from_float(float value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

// Two values in one register, the first in the lower half.
template <typename T>
ATTNPATCH_DEVICE uint32_t pack(float first, float second) {
  const T values[2] = {from_float<T>(first), from_float<T>(second)};
  static_assert(sizeof(values) == sizeof(uint32_t));
  uint32_t packed;
  memcpy(&packed, values, sizeof(packed));
  return packed;
}

}  // namespace attnpatch::kernels::device
