// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The keys and values that one row of the batch attends to, all its segments in one run, packed
// head by head for outer_product. Included once per instruction set.

#if defined(ATTNPATCH_PACKED_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_PACKED_KEYS_INL_H_
#undef ATTNPATCH_PACKED_KEYS_INL_H_
#else
#define ATTNPATCH_PACKED_KEYS_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/panels-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/vector_math-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A run of keys in the row of scores, for one row of the batch: the text, say, or one branch.
struct Segment {
  const AttentionView *k, *v;
  int64_t row;  // of k and v
  int64_t tokens;
  float weight;
  const float* mask;  // per query, or none
};

// The segments that take part for a row of the batch; the first `grouped` of them share one
// softmax.
struct Segments {
  std::vector<Segment> list;
  int64_t grouped = 0;
  int64_t keys = 0;
};

// One head, packed: keys [key / 4][channel][4], values [channel / 4][key][4]. The last panel of
// keys is filled up with the last key.
struct PackedHead {
  float *keys, *values;
  int64_t panel;  // keys in a panel of values

  static int64_t floats(int64_t keys, int64_t size) {
    return round_up(keys, 4) * (size + round_up(size, 4));
  }
  PackedHead(float* memory, int64_t key_count, int64_t size)
      : keys(memory),
        values(memory + round_up(key_count, 4) * size),
        panel(round_up(key_count, 4)) {}
};

HWY_INLINE bool is_finite(const float* row, int64_t size) {
  const FloatTag d;
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    if (!hn::AllTrue(d, hn::IsFinite(hn::LoadU(d, row + i)))) return false;
  }
  for (; i < size; ++i) {
    if (!std::isfinite(row[i])) return false;
  }
  return true;
}

// One head's keys and values, packed. Says whether all values that stand under a mask are finite:
// then a product with 0 takes them away.
template <typename Format>
bool pack(const Segments& segments, int64_t h, int64_t size, const PackedHead& head) {
  using T = typename Format::T;
  const int64_t row_size = round_up(size, kLanes);
  Arena::Scope memory(thread_arena());
  float* const scratch = memory.take(8 * row_size);
  const float *keys[4], *values[4];
  int64_t key = 0;
  bool finite = true;
  const auto put = [&] {
    const int64_t first = (key - 1) / 4 * 4;
    pack_panel(keys, size, head.keys + first * size);
    pack_values(values, first, head.panel, size, head.values);
  };
  for (const Segment& s : segments.list) {
    const T* k = head_of<T>(*s.k, s.row, h);
    const T* v = head_of<T>(*s.v, s.row, h);
    for (int64_t t = 0; t < s.tokens; ++t) {
      float* copy = scratch + key % 4 * 2 * row_size;
      keys[key % 4] = load_row<Format>(k + t * s.k->token_stride, s.k->channel_stride, size, copy);
      values[key % 4] =
          load_row<Format>(v + t * s.v->token_stride, s.v->channel_stride, size, copy + row_size);
      if (s.mask != nullptr) finite = finite && is_finite(values[key % 4], size);
      if (++key % 4 == 0) put();
    }
  }
  if (key % 4 == 0) return finite;
  for (int64_t i = key % 4; i < 4; ++i) {
    keys[i] = keys[key % 4 - 1];
    values[i] = values[key % 4 - 1];
  }
  put();
  return finite;
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_PACKED_KEYS_INL_H_
