// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Device code of biased_attention; ../biased_attention.h has the formula. It is attention as in
// flash.cuh, whose scores get a fused multiply-add in float32 for each term: factors lie in shared
// memory, those of the block's queries once, those of keys beside them, block by block.
//
// 0 times infinity has to be 0 and is not a number. Nobody looks for infinities: scores are made as
// if there were none, and where a sum of exponentials is not a number once more, exactly.
//
// Shared memory for a term: 2 kKeys + 64 floats, 768 bytes up to head size 80.

#pragma once

#include "kernels/cuda/biased_attention_plan.h"
#include "kernels/cuda/flash.cuh"

namespace attnpatch::kernels::device {

// u w, with 0 times infinity = 0.
ATTNPATCH_DEVICE float exact_product(float u, float w) {
  const float product = u * w;
  return isnan(product) && !isnan(u) && !isnan(w) ? 0.0f : product;
}

// Factors of a row of the batch, each of a block's queries and keys.
template <int kKeys, int kQueries>
struct LowRankBias {
  static constexpr bool kMayFail = true;
  static constexpr int kWarpQueries = kQueries / kWarps;

  const float* of_queries;  // the first of the block
  const float* of_keys;
  int64_t query_stride, query_term, key_stride, key_term;
  int terms, query_count;
  float* shared;  // (terms, kQueries), then twice (terms, kKeys)

  static constexpr size_t bytes(int terms) {
    return static_cast<size_t>(terms) * (kQueries + 2 * kKeys) * sizeof(float);
  }

  ATTNPATCH_DEVICE float* keys_at(int i) const {
    return shared + terms * (kQueries + i % 2 * kKeys);
  }

  // Factors to base 2.
  ATTNPATCH_DEVICE void begin() const {
    for (int i = threadIdx.x; i < terms * kQueries; i += kThreads) {
      const int query = i % kQueries, term = i / kQueries;
      shared[i] = query < query_count
                      ? of_queries[query * query_stride + term * query_term] * kLog2E
                      : 0.0f;
    }
  }

  ATTNPATCH_DEVICE void load(int i, int start, int count) const {
    float* to = keys_at(i);
    for (int j = threadIdx.x; j < terms * kKeys; j += kThreads) {
      const int key = j % kKeys, term = j / kKeys;
      const bool there = key < count;
      copy_word_async(
          to + j, there ? of_keys + (start + key) * key_stride + term * key_term : of_keys, there);
    }
  }

  template <int kGroups>
  ATTNPATCH_DEVICE float add(Scores<kKeys> (&scores)[kGroups], int i, float scale, bool exactly,
                             int lane) const {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
        for (float& score : scores[g].s[j]) score *= scale;
      }
    }
    const float* u = shared + static_cast<int>(threadIdx.x) / kWarpSize * kWarpQueries + lane / 4;
    const float* w = keys_at(i) + lane % 4 * 2;
    for (int term = 0; term < terms; ++term, u += kQueries, w += kKeys) {
      if (exactly) {
        add_term(scores, u, w,
                 [](float a, float b, float score) { return score + exact_product(a, b); });
      } else {
        add_term(scores, u, w, [](float a, float b, float score) { return fmaf(a, b, score); });
      }
    }
    return 1.0f;
  }

 private:
  template <int kGroups, typename Add>
  static ATTNPATCH_DEVICE void add_term(Scores<kKeys> (&scores)[kGroups], const float* u,
                                        const float* w, const Add& add) {
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
      const float first = w[j * 8], second = w[j * 8 + 1];
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const float low = u[g * 16], high = u[g * 16 + 8];
        float(&s)[4] = scores[g].s[j];
        s[0] = add(low, first, s[0]);
        s[1] = add(low, second, s[1]);
        s[2] = add(high, first, s[2]);
        s[3] = add(high, second, s[3]);
      }
    }
  }
};

// For kernel and launcher.
template <typename T, int kSize>
struct BiasedFlash {
  using Bias = LowRankBias<Flash<T, kSize>::kKeys, kTileQueries>;
  using Core = Flash<T, kSize, Bias>;

  static size_t shared_bytes(int terms) { return Core::shared_bytes() + Bias::bytes(terms); }
};

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads, 2) biased_attention_half(BiasedAttentionArguments p) {
  using Core = typename BiasedFlash<T, kSize>::Core;
  const int64_t b = blockIdx.z, h = blockIdx.y;
  const int64_t begin = int64_t{blockIdx.x} * Core::kQueries;
  const BiasView &of_queries = p.query_bias, &of_keys = p.key_bias;
  auto* shared = reinterpret_cast<T*>(shared_memory());
  const typename BiasedFlash<T, kSize>::Bias bias{
      of_queries.data + b * of_queries.batch_stride + begin * of_queries.token_stride,
      of_keys.data + b * of_keys.batch_stride,
      of_queries.token_stride,
      of_queries.term_stride,
      of_keys.token_stride,
      of_keys.term_stride,
      p.terms,
      static_cast<int>(min(int64_t{Core::kQueries}, p.queries - begin)),
      reinterpret_cast<float*>(shared + 4 * Core::kKeys * Core::kStride)};
  const KeysValues<T> own{rows_of<T>(p.k, b, h), rows_of<T>(p.v, b, h), static_cast<int>(p.keys)};
  const KeyParts<T> keys{own, {own.k, own.v, 0}};
  const Core core{keys, shared, static_cast<int>(p.head_size), p.vectorized, bias};
  const auto mine = Core::mine(begin, p.queries);
  auto result = core.attend(rows_of<T>(p.q, b, h), mine, p.scale);
  core.store(result, rows_of<T>(p.out, b, h), mine);
}

}  // namespace attnpatch::kernels::device
