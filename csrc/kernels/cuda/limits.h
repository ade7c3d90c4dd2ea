// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Sizes that device code and its launchers agree on.

#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/views.h"

namespace attnpatch::kernels::device {

constexpr float kLog2E = 1.44269504f;  // logits to base 2
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileQueries = 16 * kWarps;
constexpr int kPad = 8;             // values after each row in shared memory: no conflicts
constexpr int kMostSize = 160;      // of a head
constexpr int kMostBlocks = 65535;  // of a grid along its second and third dimension

struct DeviceLimits {
  size_t shared_bytes;         // that a block of threads can have, beside a kernel's own
  size_t shared_bytes_of_all;  // that two blocks of a multiprocessor can have together, likewise
  int multiprocessors;
};

// Calls body with a head size that there is a tensor-core kernel for, as a constant.
template <typename Body>
void with_size(int64_t head_size, const Body& body) {
  if (head_size <= 32) return body(std::integral_constant<int, 32>());
  if (head_size <= 48) return body(std::integral_constant<int, 48>());
  if (head_size <= 64) return body(std::integral_constant<int, 64>());
  if (head_size <= 80) return body(std::integral_constant<int, 80>());
  if (head_size <= 128) return body(std::integral_constant<int, 128>());
  return body(std::integral_constant<int, kMostSize>());
}

// Queries of one block of threads in attention to many keys. Larger heads have no registers for
// more.
constexpr int flash_queries(int64_t head_size) {
  return head_size <= 64 ? 2 * kTileQueries : kTileQueries;
}

// Whether rows of 16-bit values can be copied by pieces of 16 bytes.
inline bool rows_are_aligned(const AttentionView& view) {
  return view.channel_stride == 1 && view.batch_stride % 8 == 0 && view.head_stride % 8 == 0 &&
         view.token_stride % 8 == 0 && reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
}

}  // namespace attnpatch::kernels::device
