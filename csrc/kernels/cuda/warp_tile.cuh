// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention of one warp on tensor cores, with 16-bit types: scores, their exponentials, values.

#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/rows.cuh"

namespace attnpatch::kernels::device {

// Scores of a warp's 16 queries with up to kKeys keys, of which so many count.
template <int kKeys>
struct Scores {
  float s[kKeys / 8][4];
  int keys;
};

// What is known, when code is compiled, of how many keys of a block count: all; more than all but
// 16; nothing. Where it is known nothing branches: loads and products of all keys are free to mix.
enum class Fill { kWhole, kLastCut, kAny };

struct RowPair {  // a value for each of the two queries of a lane, g and g + 8
  float low, high;
};

ATTNPATCH_DEVICE RowPair max_over_row(RowPair m) {
  for (int mask = 1; mask <= 2; mask *= 2) {
    m.low = fmaxf(m.low, shuffle_xor(m.low, mask));
    m.high = fmaxf(m.high, shuffle_xor(m.high, mask));
  }
  return m;
}

ATTNPATCH_DEVICE RowPair sum_over_row(RowPair m) {
  for (int mask = 1; mask <= 2; mask *= 2) {
    m.low += shuffle_xor(m.low, mask);
    m.high += shuffle_xor(m.high, mask);
  }
  return m;
}

// A warp's 16 queries, and what they get; whatever the block of keys.
template <int kSize>
struct WarpQueries {
  uint32_t a[kSize / 16][4];
};

template <int kSize>
struct WarpOutput {
  float o[kSize / 8][4];
};

// The scale that scores have once their sign is turned where it is below 0. A scale of 0 is the
// smallest number instead: -inf times it is still no key.
ATTNPATCH_DEVICE float positive(float scale) { return fmaxf(fabsf(scale), 1.17549435e-38f); }

// The steps of attention for 16 queries of head size kSize and a block of keys, by one warp.
template <typename T, int kSize, int kKeys>
struct WarpTile {
  static constexpr int kStride = kSize + kPad;

  using Queries = WarpQueries<kSize>;
  using Output = WarpOutput<kSize>;

  // Turns the sign of all scores: the largest product is the largest score with a scale above 0.
  static ATTNPATCH_DEVICE void negate(Queries& q) {
#pragma unroll
    for (int k = 0; k < kSize / 16; ++k) {
      for (int i = 0; i < 4; ++i) q.a[k][i] ^= 0x80008000u;
    }
  }

  // From the warp's rows in shared memory.
  static ATTNPATCH_DEVICE void load_queries(Queries& q, const T* rows, int lane) {
#pragma unroll
    for (int k = 0; k < kSize / 16; ++k) {
      load_matrices(q.a[k], rows + (lane % 16) * kStride + k * 16 + lane / 16 * 8);
    }
  }

  // Scores that are not yet scaled; -inf of keys beyond `count`.
  template <Fill fill>
  static ATTNPATCH_DEVICE void products(Scores<kKeys>& scores, const Queries& q, const T* keys,
                                        int count, int lane) {
    scores.keys = count;
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      float(&left)[4] = scores.s[2 * j];
      float(&right)[4] = scores.s[2 * j + 1];
      for (int i = 0; i < 4; ++i) left[i] = right[i] = 0.0f;
      if (fill == Fill::kAny && j * 16 >= count) continue;
      const T* row = keys + (j * 16 + lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
      for (int k = 0; k < kSize / 16; ++k) {
        uint32_t b[4];
        load_matrices(b, row + k * 16);
        multiply_add<T>(left, q.a[k], b[0], b[1]);
        multiply_add<T>(right, q.a[k], b[2], b[3]);
      }
    }
    constexpr int kFirst = fill == Fill::kWhole ? kKeys : fill == Fill::kLastCut ? kKeys - 16 : 0;
#pragma unroll
    for (int j = kFirst / 8; j < kKeys / 8; ++j) {
      for (int i = 0; i < 4; ++i) {
        if (j * 8 + lane % 4 * 2 + i % 2 >= count) scores.s[j][i] = -INFINITY;
      }
    }
  }

  // Replaces scores by 2^(scale s - shift), scale > 0, and gives this lane's part of their
  // sum.
  static ATTNPATCH_DEVICE RowPair exponentials(Scores<kKeys>& scores, RowPair shift, float scale) {
    RowPair sum{0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
      for (int i = 0; i < 2; ++i) {
        sum.low += scores.s[j][i] = exp2_of(fmaf(scores.s[j][i], scale, -shift.low));
        sum.high += scores.s[j][i + 2] = exp2_of(fmaf(scores.s[j][i + 2], scale, -shift.high));
      }
    }
    return sum;
  }

  static ATTNPATCH_DEVICE RowPair maximum(const Scores<kKeys>& scores) {
    RowPair m{-INFINITY, -INFINITY};
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
      m.low = fmaxf(m.low, fmaxf(scores.s[j][0], scores.s[j][1]));
      m.high = fmaxf(m.high, fmaxf(scores.s[j][2], scores.s[j][3]));
    }
    return max_over_row(m);
  }

  template <Fill fill>
  static ATTNPATCH_DEVICE void add_values(Output& out, const Scores<kKeys>& p, RowPair factor,
                                          const T* values, int lane) {
    const auto add = [&](int c, const uint32_t(&a)[4], const uint32_t(&b)[4]) {
      multiply_add<T>(out.o[2 * c], a, b[0], b[1]);
      multiply_add<T>(out.o[2 * c + 1], a, b[2], b[3]);
    };
    each_product<fill>(p, factor, values, lane, add);
  }

  // The same for those of a lane's two queries that are on: an off one gets nothing, not even the
  // product of 0 with a NaN.
  template <Fill fill>
  static ATTNPATCH_DEVICE void add_values_where(Output& out, const Scores<kKeys>& p, RowPair factor,
                                                bool low, bool high, const T* values, int lane) {
    const auto add = [&](int c, const uint32_t(&a)[4], const uint32_t(&b)[4]) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float d[4] = {};
        multiply_add<T>(d, a, b[2 * half], b[2 * half + 1]);
        float(&o)[4] = out.o[2 * c + half];
#pragma unroll
        for (int i = 0; i < 4; ++i) o[i] += (i < 2 ? low : high) ? d[i] : 0.0f;
      }
    };
    each_product<fill>(p, factor, values, lane, add);
  }

  // Calls body(c, a, b) for pieces of the product of scores and values: 16 keys by channels
  // [16 c, 16 c + 16).
  template <Fill fill, typename Body>
  static ATTNPATCH_DEVICE void each_product(const Scores<kKeys>& p, RowPair factor, const T* values,
                                            int lane, const Body& body) {
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      if (fill == Fill::kAny && j * 16 >= p.keys) continue;
      const float(&left)[4] = p.s[2 * j];
      const float(&right)[4] = p.s[2 * j + 1];
      const uint32_t a[4] = {
          pack<T>(left[0] * factor.low, left[1] * factor.low),
          pack<T>(left[2] * factor.high, left[3] * factor.high),
          pack<T>(right[0] * factor.low, right[1] * factor.low),
          pack<T>(right[2] * factor.high, right[3] * factor.high),
      };
      const T* row = values + (j * 16 + lane / 8 % 2 * 8 + lane % 8) * kStride + lane / 16 * 8;
#pragma unroll
      for (int c = 0; c < kSize / 16; ++c) {
        uint32_t b[4];
        load_matrices_transposed(b, row + c * 16);
        body(c, a, b);
      }
    }
  }

  static ATTNPATCH_DEVICE void multiply(Output& out, RowPair factor) {
#pragma unroll
    for (int c = 0; c < kSize / 8; ++c) {
      out.o[c][0] *= factor.low;
      out.o[c][1] *= factor.low;
      out.o[c][2] *= factor.high;
      out.o[c][3] *= factor.high;
    }
  }

  // To the warp's rows in shared memory.
  static ATTNPATCH_DEVICE void store(const Output& out, T* rows, int lane) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int c = 0; c < kSize / 8; ++c) {
      const uint32_t low = pack<T>(out.o[c][0], out.o[c][1]);
      const uint32_t high = pack<T>(out.o[c][2], out.o[c][3]);
      *reinterpret_cast<uint32_t*>(rows + g * kStride + c * 8 + t * 2) = low;
      *reinterpret_cast<uint32_t*>(rows + (g + 8) * kStride + c * 8 + t * 2) = high;
    }
  }
};

}  // namespace attnpatch::kernels::device
