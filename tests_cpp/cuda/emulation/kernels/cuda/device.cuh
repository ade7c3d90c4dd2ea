// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Stands in for csrc/kernels/cuda/device.cuh where device code is compiled for the CPU: every
// thread of a block is a fiber, which gives way where the threads of a warp or block meet.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

// NOLINTBEGIN(bugprone-reserved-identifier): CUDA's own words.
#undef __global__
#undef __shared__
#undef __launch_bounds__
#define __global__
#define __shared__ static  // blocks run one after the other
#define __launch_bounds__(...)
// NOLINTEND(bugprone-reserved-identifier)
#define ATTNPATCH_DEVICE inline

namespace attnpatch::kernels::device {

constexpr int kWarpSize = 32;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
inline Index threadIdx, blockIdx;  // NOLINT(readability-identifier-naming): CUDA's names

// Runs a kernel: every block of the grid in turn, with so many threads and bytes of shared memory.
void launch(Index grid, int threads, size_t shared_bytes, const std::function<void()>& kernel);

unsigned char* shared_memory();
void sync_block();
void sync_warp();

// What each lane of this warp has given; all lanes come here.
const uint32_t* gather(uint32_t value);
const void* const* gather_pointers(const void* value);

template <typename T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}

inline float shuffle_xor(float value, int mask) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits = gather(bits)[(threadIdx.x % kWarpSize) ^ static_cast<unsigned>(mask)];
  std::memcpy(&value, &bits, sizeof(value));
  sync_warp();
  return value;
}

inline bool any_of_warp(bool value) {
  const uint32_t* values = gather(value ? 1 : 0);
  bool any = false;
  for (int i = 0; i < kWarpSize; ++i) any = any || values[i] != 0;
  sync_warp();
  return any;
}

using std::isnan;
inline float exp2_of(float value) { return std::exp2(value); }
inline float log2_of(float value) { return std::log2(value); }

// Copies are made no earlier than they are waited for.
void copy_async(void* to, const void* from, bool there);
void copy_word_async(void* to, const void* from, bool there);
void commit_copies();
void wait_for_copies();
void wait_for_earlier_copies();

void load_matrices(uint32_t (&r)[4], const void* row);
void load_matrices_transposed(uint32_t (&r)[4], const void* row);

inline void copy_piece(void* to, const void* from) { std::memcpy(to, from, 16); }

inline float to_float(float value) { return value; }
inline float to_float(__half value) { return __half2float(value); }
inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
T from_float(float value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

template <typename T>
uint32_t pack(float first, float second) {
  const T values[2] = {from_float<T>(first), from_float<T>(second)};
  uint32_t packed;
  std::memcpy(&packed, values, sizeof(packed));
  return packed;
}

// Element `half` of a packed register.
template <typename T>
float unpack(uint32_t packed, int half) {
  const uint32_t bits = half == 0 ? packed << 16 : packed & 0xffff0000u;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  } else {
    __half_raw raw;
    raw.x = static_cast<unsigned short>(bits >> 16);
    return to_float(__half(raw));
  }
}

template <typename T>
void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  uint32_t all[6][kWarpSize];
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  for (int i = 0; i < 6; ++i) {
    std::memcpy(all[i], gather(mine[i]), sizeof(all[i]));
    sync_warp();
  }
  const int lane = static_cast<int>(threadIdx.x % kWarpSize), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int a_lane = row % 8 * 4 + k % 8 / 2, b_lane = column * 4 + k % 8 / 2;
      const uint32_t left = all[row / 8 + k / 8 * 2][a_lane], right = all[4 + k / 8][b_lane];
      d[i] += unpack<T>(left, k % 2) * unpack<T>(right, k % 2);
    }
  }
}

}  // namespace attnpatch::kernels::device
