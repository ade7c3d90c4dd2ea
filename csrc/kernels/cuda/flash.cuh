// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention with one softmax over many keys: blocks of keys come to shared memory while those
// before them are in use, and the softmax is kept online (Milakov & Gimelshein 2018, arXiv
// 1805.02867; Dao et al. 2022, arXiv 2205.14135).
//
// Four warps. Up to head size 64 each has 32 queries: what it reads of shared memory serves two
// products, and a block of threads reads all keys for 128 queries. Registers a thread at head size
// 64 and 64 keys: 32 for queries, 64 for scores, 64 for the accumulator; at 160 with 16 queries and
// 32 keys: 40, 16, 80. Shared memory: 4 kKeys rows of head size + 8 values, 36 KiB at head size 64,
// 42 KiB at 160. Queries and results pass through the second block's place.

#pragma once

#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/warp_tile.cuh"

namespace attnpatch::kernels::device {

// Keys and values of one head.
template <typename T>
struct KeysValues {
  Rows<T> k, v;
  int count;
};

// What a tile of queries attends to: some keys of its own, and some that it shares with others.
template <typename T>
struct KeyParts {
  KeysValues<T> own, shared;
};

// What is added to the scores: nothing. A bias of another kind has the same members.
struct NoBias {
  static constexpr bool kMayFail = false;

  // All threads of the block come here, once: what is known of its queries.
  ATTNPATCH_DEVICE void begin() const {}

  // All threads of the block come here: what is known of keys [start, start + count), block i,
  // copied as those are.
  ATTNPATCH_DEVICE void load(int /*i*/, int /*start*/, int /*count*/) const {}

  // Adds it to the scores of a warp's groups of queries with block i, and gives the scale that is
  // left to them.
  template <int kKeys, int kGroups>
  ATTNPATCH_DEVICE float add(Scores<kKeys> (&)[kGroups], int /*i*/, float scale, bool /*exactly*/,
                             int /*lane*/) const {
    return scale;
  }
};

// Blocks of threads that a multiprocessor has registers for.
template <int kSize>
constexpr int kFlashBlocks = kSize > 64 && kSize <= 128 ? 3 : 2;

template <typename T, int kSize, typename Bias = NoBias>
struct Flash {
  static constexpr int kKeys = kSize <= 80 ? 64 : 32;
  // A bias needs registers too.
  static constexpr int kGroups = Bias::kMayFail ? 1 : flash_queries(kSize) / kTileQueries;
  static constexpr int kQueries = kGroups * kTileQueries;  // of a block of threads
  static constexpr int kWarpQueries = 16 * kGroups;
  static constexpr int kStride = kSize + kPad;
  using Math = WarpTile<T, kSize, kKeys>;

  static constexpr size_t shared_bytes() { return 4 * kKeys * kStride * sizeof(T); }
  static_assert(kQueries <= 2 * kKeys, "queries have the second block's place");

  // Of the kernel that sums columns: a block of keys and two tiles of queries.
  static constexpr size_t column_bytes() {
    return (kKeys + 2 * kTileQueries) * kStride * sizeof(T);
  }

  struct Result {
    typename Math::Output out[kGroups];  // times the sum
    RowPair m[kGroups], sum[kGroups];    // of the logits to base 2
  };

  // Those of the block's queries that this warp has: rows [first, first + count).
  struct Mine {
    int64_t first;
    int count;
  };

  const KeyParts<T>& keys;
  T* shared;
  int size;
  bool vectorized;
  Bias bias = {};

  // Of a block with queries from number `begin` on, where there are `end`.
  static ATTNPATCH_DEVICE Mine mine(int64_t begin, int64_t end) {
    const int64_t first = begin + static_cast<int>(threadIdx.x) / kWarpSize * kWarpQueries;
    return {first, static_cast<int>(
                       max(int64_t{0}, min(static_cast<int64_t>(kWarpQueries), end - first)))};
  }

  // Block i of the keys: of which part, where it begins there, and how many keys it has.
  struct Block {
    bool own;
    int start, count;
  };

  static ATTNPATCH_DEVICE int blocks_of(int count) { return (count + kKeys - 1) / kKeys; }

  ATTNPATCH_DEVICE int blocks() const {
    return blocks_of(keys.own.count) + blocks_of(keys.shared.count);
  }

  ATTNPATCH_DEVICE Block block(int i) const {
    const int first = blocks_of(keys.own.count);
    const bool own = i < first;
    const int start = (own ? i : i - first) * kKeys;
    return {own, start, min(kKeys, (own ? keys.own.count : keys.shared.count) - start)};
  }

  ATTNPATCH_DEVICE T* keys_at(int i) const { return shared + i % 2 * 2 * kKeys * kStride; }
  ATTNPATCH_DEVICE T* values_at(int i) const { return keys_at(i) + kKeys * kStride; }
  ATTNPATCH_DEVICE T* stage() const {
    return keys_at(1) + static_cast<int>(threadIdx.x) / kWarpSize * kWarpQueries * kStride;
  }

  ATTNPATCH_DEVICE void load(int i) const {
    const Block b = block(i);
    const KeysValues<T> from = b.own ? keys.own : keys.shared;
    const int rows = (b.count + 15) / 16 * 16;
    const Team team{static_cast<int>(threadIdx.x), kThreads};
    load_rows<kSize>(keys_at(i), from.k, b.start, b.count, rows, size, vectorized, team);
    load_rows<kSize>(values_at(i), from.v, b.start, b.count, rows, size, vectorized, team);
    bias.load(i, b.start, b.count);
    commit_copies();
  }

  // Takes block i into the result.
  template <Fill fill>
  ATTNPATCH_DEVICE void step(Result& r, const typename Math::Queries (&q)[kGroups], int i,
                             int count, float scale, int lane) const {
    Scores<kKeys> scores[kGroups];
    RowPair now[kGroups], shrink[kGroups], part[kGroups], ones[kGroups];
    for (bool exactly = false;; exactly = true) {
      bool failed = false;
      Math::template products<fill>(scores, q, keys_at(i), count, lane);
      const float rest = bias.add(scores, i, scale, exactly, lane);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const RowPair top = Math::maximum(scores[g]);
        now[g] = {fmaxf(r.m[g].low, top.low * rest), fmaxf(r.m[g].high, top.high * rest)};
        // Where no key has counted yet, so that -inf - -inf gives no NaN.
        const RowPair shift{now[g].low == -INFINITY ? 0.0f : now[g].low,
                            now[g].high == -INFINITY ? 0.0f : now[g].high};
        shrink[g] = {exp2_of(r.m[g].low - shift.low), exp2_of(r.m[g].high - shift.high)};
        part[g] = Math::exponentials(scores[g], shift, rest);
        failed = failed || isnan(part[g].low + part[g].high);
      }
      if (!Bias::kMayFail || exactly || !any_of_warp(failed)) break;
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      Math::multiply(r.out[g], shrink[g]);
      r.sum[g] = {r.sum[g].low * shrink[g].low + part[g].low,
                  r.sum[g].high * shrink[g].high + part[g].high};
      r.m[g] = now[g];
      ones[g] = {1.0f, 1.0f};
    }
    Math::template add_values<fill>(r.out, scores, ones, values_at(i), lane);
  }

  // All threads of the block come here together. `scale` is of the logits to base 2.
  ATTNPATCH_DEVICE Result attend(const Rows<T>& queries, Mine mine, float scale) const {
    const int lane = threadIdx.x % kWarpSize, count = blocks();
    load_rows<kSize>(stage(), queries, mine.first, mine.count, kWarpQueries, size, vectorized,
                     Team{lane, kWarpSize});
    commit_copies();
    if (count > 0) load(0);
    bias.begin();
    if (count > 0) {
      wait_for_earlier_copies();
    } else {
      wait_for_copies();
    }
    sync_warp();
    typename Math::Queries q[kGroups];
    Result r;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      Math::load_queries(q[g], stage() + g * 16 * kStride, lane);
      if (scale < 0.0f) Math::negate(q[g]);
      r.out[g] = {};
      r.m[g] = {-INFINITY, -INFINITY};
      r.sum[g] = {0.0f, 0.0f};
    }
    scale = positive(scale);
    for (int i = 0; i < count; ++i) {
      wait_for_copies();
      sync_block();  // the block is there, and all are done with what had the next one's place
      if (i + 1 < count) load(i + 1);
      const int keys_in_block = block(i).count;
      if (keys_in_block == kKeys) {
        step<Fill::kWhole>(r, q, i, keys_in_block, scale, lane);
      } else {
        step<Fill::kAny>(r, q, i, keys_in_block, scale, lane);
      }
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) r.sum[g] = sum_over_row(r.sum[g]);
    return r;
  }

  // Writes the results. All threads of the block come here together.
  ATTNPATCH_DEVICE void store(Result& r, const Rows<T>& out, Mine mine) const {
    const int lane = threadIdx.x % kWarpSize;
    sync_block();  // all are done with the last block of keys
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      Math::multiply(r.out[g], {1.0f / r.sum[g].low, 1.0f / r.sum[g].high});
      Math::store(r.out[g], stage() + g * 16 * kStride, lane);
    }
    sync_warp();
    store_rows<kSize>(out, stage(), mine.first, mine.count, size, vectorized,
                      Team{lane, kWarpSize});
  }
};

}  // namespace attnpatch::kernels::device
