// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Device code of attention_column_mean. With L[n] = log2 sum_j 2^(s q_n·k_j), s to base 2:
//
//   column_mean[r,j] = 1/H sum_h sum_n 2^(s q_n·k_j - L[n])
//
// Three kernels: attention, which also leaves L; column sums of each head, a block of keys by one
// block of threads, which goes through all queries; their mean over the heads. Each sum has one
// fixed order. Scratch memory: L (batch, heads, N) and the sums (recorded, heads, M), floats.

#pragma once

#include "kernels/cuda/attention_column_mean_plan.h"
#include "kernels/cuda/flash.cuh"

namespace attnpatch::kernels::device {

ATTNPATCH_DEVICE float log_of_sum(float m, float sum) { return m + log2_of(sum); }

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads, kFlashBlocks<kSize>)
    column_mean_attention_half(ColumnMeanArguments p) {
  using Core = Flash<T, kSize>;
  const int64_t b = blockIdx.z, h = blockIdx.y;
  const KeysValues<T> own{rows_of<T>(p.k, b, h), rows_of<T>(p.v, b, h), static_cast<int>(p.keys)};
  const KeyParts<T> keys{own, {own.k, own.v, 0}};
  const Core core{keys, reinterpret_cast<T*>(shared_memory()), static_cast<int>(p.head_size),
                  p.vectorized};
  const auto mine = Core::mine(int64_t{blockIdx.x} * Core::kQueries, p.queries);
  auto result = core.attend(rows_of<T>(p.q, b, h), mine, p.scale);

  const int lane = threadIdx.x % kWarpSize;
  if (p.logs != nullptr && lane % 4 == 0) {
    float* logs = p.logs + (b * p.heads + h) * p.queries;
#pragma unroll
    for (int g = 0; g < Core::kGroups; ++g) {
      const int64_t query = mine.first + g * 16 + lane / 4;
      if (query < p.queries) logs[query] = log_of_sum(result.m[g].low, result.sum[g].low);
      if (query + 8 < p.queries) logs[query + 8] = log_of_sum(result.m[g].high, result.sum[g].high);
    }
  }
  core.store(result, rows_of<T>(p.out, b, h), mine);
}

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) column_sums_half(ColumnMeanArguments p) {
  using Core = Flash<T, kSize>;
  using Math = typename Core::Math;
  constexpr int kKeys = Core::kKeys, kStride = Core::kStride;
  __shared__ float warps[kWarps][kKeys];
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int64_t record = blockIdx.z, h = blockIdx.y, b = p.rows[record];
  const int size = static_cast<int>(p.head_size);
  const int64_t first_key = int64_t{blockIdx.x} * kKeys;
  const int key_count = static_cast<int>(min(int64_t{kKeys}, p.keys - first_key));
  T* keys = reinterpret_cast<T*>(shared_memory());
  T* stages = keys + kKeys * kStride;  // two tiles of queries
  const Team all{static_cast<int>(threadIdx.x), kThreads};
  const Rows<T> q_rows = rows_of<T>(p.q, b, h);
  const auto load = [&](int64_t tile) {
    const int64_t first = tile * kTileQueries;
    const int count = static_cast<int>(min(int64_t{kTileQueries}, p.queries - first));
    load_rows<kSize>(stages + tile % 2 * kTileQueries * kStride, q_rows, first, count, kTileQueries,
                     size, p.vectorized, all);
    commit_copies();
  };
  load_rows<kSize>(keys, rows_of<T>(p.k, b, h), first_key, key_count, kKeys, size, p.vectorized,
                   all);
  const float* logs = p.logs + (b * p.heads + h) * p.queries;
  const int64_t tiles = (p.queries + kTileQueries - 1) / kTileQueries;
  float sums[kKeys / 8][2] = {};
  load(0);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) {
      load(tile + 1);
      wait_for_earlier_copies();
    } else {
      wait_for_copies();
    }
    sync_block();
    typename Math::Queries q[1];
    Math::load_queries(q[0], stages + (tile % 2 * kTileQueries + warp * 16) * kStride, lane);
    Scores<kKeys> scores[1];
    if (p.scale < 0.0f) Math::negate(q[0]);
    if (key_count == kKeys) {
      Math::template products<Fill::kWhole>(scores, q, keys, key_count, lane);
    } else {
      Math::template products<Fill::kAny>(scores, q, keys, key_count, lane);
    }
    const int64_t query = tile * kTileQueries + warp * 16 + lane / 4;
    const bool low = query < p.queries, high = query + 8 < p.queries;
    const RowPair log{low ? logs[query] : 0.0f, high ? logs[query + 8] : 0.0f};
    Math::exponentials(scores[0], log, positive(p.scale));
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
      for (int i = 0; i < 2; ++i) {
        sums[j][i] += (low ? scores[0].s[j][i] : 0.0f) + (high ? scores[0].s[j][i + 2] : 0.0f);
      }
    }
    sync_block();
  }
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
    for (int i = 0; i < 2; ++i) {
      float sum = sums[j][i];
      for (int mask = 4; mask < kWarpSize; mask *= 2) sum += shuffle_xor(sum, mask);
      if (lane < 4) warps[warp][j * 8 + lane * 2 + i] = sum;
    }
  }
  sync_block();
  for (int key = threadIdx.x; key < key_count; key += kThreads) {
    float sum = 0.0f;
    for (int w = 0; w < kWarps; ++w) sum += warps[w][key];
    p.sums[(record * p.heads + h) * p.keys + first_key + key] = sum;
  }
}

__global__ void __launch_bounds__(kThreads) mean_over_heads(ColumnMeanArguments p) {
  const int64_t key = int64_t{blockIdx.x} * kThreads + threadIdx.x, record = blockIdx.y;
  if (key >= p.keys) return;
  float sum = 0.0f;
  for (int64_t h = 0; h < p.heads; ++h) sum += p.sums[(record * p.heads + h) * p.keys + key];
  p.column_mean[record * p.keys + key] = sum / static_cast<float>(p.heads);
}

}  // namespace attnpatch::kernels::device
