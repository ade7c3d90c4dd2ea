// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Rows of keys and values as the panels that outer_product takes. Included once per instruction
// set.

#if defined(ATTNPATCH_PANELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_PANELS_INL_H_
#undef ATTNPATCH_PANELS_INL_H_
#else
#define ATTNPATCH_PANELS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Four rows of keys as a panel [channel][4]; a row that is missing is zero.
HWY_INLINE void pack_panel(const float* const rows[4], int64_t size, float* panel) {
  const FloatTag d;
  constexpr int64_t n = kLanes;
  int64_t c = 0;
  for (; c + n <= size; c += n) {
    hn::StoreInterleaved4(hn::LoadU(d, rows[0] + c), hn::LoadU(d, rows[1] + c),
                          hn::LoadU(d, rows[2] + c), hn::LoadU(d, rows[3] + c), d, panel + 4 * c);
  }
  for (; c < size; ++c) {
    for (int i = 0; i < 4; ++i) panel[4 * c + i] = rows[i][c];
  }
}

// Four rows of values, `key` being the number of the first, into every panel [key][4 channels];
// `keys`, a multiple of 4, is the length of a panel.
HWY_INLINE void pack_values(const float* const rows[4], int64_t key, int64_t keys, int64_t size,
                            float* values) {
  float* column = values + 4 * key;
  int64_t c = 0;
  for (; c + 4 <= size; c += 4, column += 4 * keys) {
    for (int i = 0; i < 4; ++i) copy4(rows[i] + c, column + 4 * i);
  }
  if (c == size) return;
  for (int i = 0; i < 16; ++i) column[i] = c + i % 4 < size ? rows[i / 4][c + i % 4] : 0.0f;
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_PANELS_INL_H_
