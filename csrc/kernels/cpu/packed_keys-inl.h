// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The keys and values that one row of the batch attends to, packed head by head, all segments in
// one run, for outer_product_sums. Included once per instruction set.

#if defined(ATTNPATCH_PACKED_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_PACKED_KEYS_INL_H_
#undef ATTNPATCH_PACKED_KEYS_INL_H_
#else
#define ATTNPATCH_PACKED_KEYS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <vector>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/panels-inl.h"
#include "kernels/cpu/products-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/vector_math-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Keys of one row of the batch that have a weight in common: the text, say, or one branch.
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
  int64_t panel;  // keys: each segment's are filled up to a multiple of it
  std::vector<Segment> list;
  int64_t grouped = 0;
  int64_t keys = 0;  // packed

  explicit Segments(int64_t of_panel = 4) : panel(of_panel) {}

  int64_t packed(const Segment& segment) const { return round_up(segment.tokens, panel); }

  void add(const Segment& segment) {
    list.push_back(segment);
    keys += packed(segment);
  }
};

// One head, packed: keys [key / 4][channel][4], values [channel / 4][key][4]; with pairs, keys have
// half as many channels, and values half as many keys.
template <typename Products>
struct PackedHead {
  float *keys, *values;
  int64_t lanes;  // of a key
  int64_t panel;  // keys in a panel of values

  static int64_t floats(int64_t keys, int64_t size) {
    return keys * (lanes_of<Products>(size) + lanes_of<Products>(round_up(size, 4)));
  }
  PackedHead(float* memory, int64_t key_count, int64_t size)
      : keys(memory),
        values(memory + key_count * lanes_of<Products>(size)),
        lanes(lanes_of<Products>(size)),
        panel(key_count) {}

  // The keys from number `key` on, a multiple of four; and their values' channels from `channel`
  // on.
  const float* keys_from(int64_t key) const { return keys + key * lanes; }
  const float* values_from(int64_t key, int64_t channel) const {
    return values + (channel * panel + 4 * key) / Products::kTerms;
  }
};

// One head's keys and values, packed. A segment's last panel is filled up with its last key, which
// changes no maximum.
template <typename Format>
void pack(const Segments& segments, int64_t h, int64_t size,
          const PackedHead<typename Format::Products>& head) {
  using T = typename Format::T;
  const int64_t row_size = round_up(size, kLanes);
  Arena::Scope memory(thread_arena());
  float* const scratch = memory.take(8 * row_size);
  int64_t first = 0;
  for (const Segment& s : segments.list) {
    const T* k = head_of<T>(*s.k, s.row, h);
    const T* v = head_of<T>(*s.v, s.row, h);
    for (int64_t token = 0; token < s.tokens; token += 4, first += 4) {
      const float *keys[4], *values[4];
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t t = HWY_MIN(token + i, s.tokens - 1);
        float* copy = scratch + i * 2 * row_size;
        keys[i] = load_lanes<Format>(k + t * s.k->token_stride, s.k->channel_stride, size, copy);
        values[i] = load_lanes<Format>(v + t * s.v->token_stride, s.v->channel_stride, size,
                                       copy + row_size);
      }
      pack_panel(keys, head.lanes, head.keys + first * head.lanes);
      pack_values(typename Format::Products(), values, s.tokens - token, first, head.panel, size,
                  head.values);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_PACKED_KEYS_INL_H_
