// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention with one softmax over many keys: blocks of keys come to shared memory while those
// before them are in use, and the softmax is kept online (Milakov & Gimelshein 2018, arXiv
// 1805.02867; Dao et al. 2022, arXiv 2205.14135).
//
// Registers a thread at head size 160 and 32 keys: 40 for queries, 16 for scores, 80 for the
// accumulator. Shared memory: 4 kKeys + 64 rows of head size + 8 values, 63 KiB at head size 160.

#pragma once

#include "kernels/cuda/any_query.cuh"
#include "kernels/cuda/warp_tile.cuh"

namespace attnpatch::kernels::device {

// What a tile of queries attends to: some keys of its own, and some that it shares with others.
template <typename T>
struct KeyParts {
  KeysValues<T> own, shared;
};

template <typename T, int kSize>
struct Flash {
  static constexpr int kKeys = kSize <= 80 ? 64 : 32;
  static constexpr int kStride = kSize + kPad;
  using Math = WarpTile<T, kSize, kKeys>;

  static constexpr size_t shared_bytes() {
    return (4 * kKeys + kTileQueries) * kStride * sizeof(T);
  }

  // Of the kernel that sums columns: a block of keys and two tiles of queries.
  static constexpr size_t column_bytes() {
    return (kKeys + 2 * kTileQueries) * kStride * sizeof(T);
  }

  struct Result {
    typename Math::Output out;  // times the sum
    RowPair m, sum;             // of the logits to base 2
  };

  const KeyParts<T>& keys;
  T* shared;
  int size;
  bool vectorized;

  // Block i of the keys: of which part, where it begins there, and how many keys it has.
  struct Block {
    bool own;
    int start, count;
  };

  static ATTNPATCH_DEVICE int blocks_of(int count) { return (count + kKeys - 1) / kKeys; }

  ATTNPATCH_DEVICE Block block(int i) const {
    const int first = blocks_of(keys.own.count);
    const bool own = i < first;
    const int start = (own ? i : i - first) * kKeys;
    return {own, start, min(kKeys, (own ? keys.own.count : keys.shared.count) - start)};
  }

  ATTNPATCH_DEVICE T* keys_at(int i) const { return shared + i % 2 * 2 * kKeys * kStride; }
  ATTNPATCH_DEVICE T* values_at(int i) const { return keys_at(i) + kKeys * kStride; }

  ATTNPATCH_DEVICE void load(int i) const {
    const Block b = block(i);
    const KeysValues<T> from = b.own ? keys.own : keys.shared;
    const int rows = (b.count + 15) / 16 * 16;
    const Team team{static_cast<int>(threadIdx.x), kThreads};
    load_rows<kSize>(keys_at(i), from.k, b.start, b.count, rows, size, vectorized, team);
    load_rows<kSize>(values_at(i), from.v, b.start, b.count, rows, size, vectorized, team);
    commit_copies();
  }

  // Takes block i into the result.
  template <Fill fill>
  ATTNPATCH_DEVICE void step(Result& r, const typename Math::Queries& q, int i, int count,
                             float scale, int lane) const {
    Scores<kKeys> scores;
    Math::template products<fill>(scores, q, keys_at(i), count, lane);
    const RowPair top = Math::maximum(scores);
    const RowPair now{fmaxf(r.m.low, top.low * scale), fmaxf(r.m.high, top.high * scale)};
    // Where no key has counted yet, so that -inf - -inf gives no NaN.
    const RowPair shift{now.low == -INFINITY ? 0.0f : now.low,
                        now.high == -INFINITY ? 0.0f : now.high};
    const RowPair shrink{exp2_of(r.m.low - shift.low), exp2_of(r.m.high - shift.high)};
    const RowPair part = Math::exponentials(scores, shift, scale);
    Math::multiply(r.out, shrink);
    r.sum = {r.sum.low * shrink.low + part.low, r.sum.high * shrink.high + part.high};
    r.m = now;
    Math::template add_values<fill>(r.out, scores, {1.0f, 1.0f}, values_at(i), lane);
  }

  // All threads of the block come here together. `scale` is of the logits to base 2.
  ATTNPATCH_DEVICE Result attend(typename Math::Queries& q, float scale, int lane) const {
    Result r{{}, {-INFINITY, -INFINITY}, {0.0f, 0.0f}};
    if (scale < 0.0f) Math::negate(q);
    scale = positive(scale);
    const int blocks = blocks_of(keys.own.count) + blocks_of(keys.shared.count);
    if (blocks > 0) load(0);
    for (int i = 0; i < blocks; ++i) {
      if (i + 1 < blocks) {
        load(i + 1);
        wait_for_earlier_copies();
      } else {
        wait_for_copies();
      }
      sync_block();
      const int count = block(i).count;
      if (count == kKeys) {
        step<Fill::kWhole>(r, q, i, count, scale, lane);
      } else {
        step<Fill::kAny>(r, q, i, count, scale, lane);
      }
      sync_block();  // before the next but one takes this one's place
    }
    r.sum = sum_over_row(r.sum);
    return r;
  }
};

}  // namespace attnpatch::kernels::device
