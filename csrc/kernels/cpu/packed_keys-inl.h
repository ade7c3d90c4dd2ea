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

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cpu/panels-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/vector_math-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch {
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

// One head, packed: keys [key / 4][channel][4], values [channel / 4][key][4].
struct PackedHead {
  float *keys, *values;

  static int64_t keys_size(int64_t keys, int64_t size) {
    return round_up(round_up(keys, 4) * size, 16);
  }
  static int64_t values_size(int64_t keys, int64_t size) {
    return round_up(round_up(size, 4) * keys, 16);
  }
  static int64_t floats(int64_t keys, int64_t size) {
    return keys_size(keys, size) + values_size(keys, size);
  }
  PackedHead(float* memory, int64_t key_count, int64_t size)
      : keys(memory), values(memory + keys_size(key_count, size)) {}
};

// One head's keys and values, packed.
template <typename Format>
void pack(const Segments& segments, int64_t h, int64_t size, const PackedHead& head) {
  using T = typename Format::T;
  const int64_t row_size = round_up(size, kLanes);
  thread_local std::vector<float> scratch;
  scratch.resize(static_cast<size_t>(5 * row_size));
  float* const fifth = scratch.data() + 4 * row_size;
  const float* rows[4];
  int64_t key = 0;
  for (const Segment& s : segments.list) {
    const T* k = head_of<T>(*s.k, s.row, h);
    const T* v = head_of<T>(*s.v, s.row, h);
    for (int64_t t = 0; t < s.tokens; ++t, ++key) {
      rows[key % 4] = load_row<Format>(k + t * s.k->token_stride, s.k->channel_stride, size,
                                       scratch.data() + key % 4 * row_size);
      if (key % 4 == 3) pack_panel(rows, size, head.keys + (key - 3) * size);
      const float* value =
          load_row<Format>(v + t * s.v->token_stride, s.v->channel_stride, size, fifth);
      pack_value(value, key, segments.keys, size, head.values);
    }
  }
  if (key % 4 == 0) return;
  const int64_t first = key / 4 * 4;
  std::memset(fifth, 0, sizeof(float) * static_cast<size_t>(row_size));
  for (; key % 4 != 0; ++key) rows[key % 4] = fifth;
  pack_panel(rows, size, head.keys + first * size);
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_PACKED_KEYS_INL_H_
