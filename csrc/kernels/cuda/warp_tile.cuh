// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention of one warp on tensor cores, with 16-bit types: scores, their exponentials, values. A
// warp has one or more groups of 16 queries: what it loads of keys and values serves all of them.

#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/rows.cuh"

namespace attnpatch::kernels::device {

// Scores of 16 queries with up to kKeys keys, of which so many count.
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

// 16 queries, and what they get; whatever the block of keys.
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

// The steps of attention for queries of head size kSize and a block of keys, by one warp.
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

  // From 16 rows in shared memory.
  static ATTNPATCH_DEVICE void load_queries(Queries& q, const T* rows, int lane) {
#pragma unroll
    for (int k = 0; k < kSize / 16; ++k) {
      load_matrices(q.a[k], rows + (lane % 16) * kStride + k * 16 + lane / 16 * 8);
    }
  }

  // Scores that are not yet scaled; -inf of keys beyond `count`.
  template <Fill fill, int kGroups>
  static ATTNPATCH_DEVICE void products(Scores<kKeys> (&scores)[kGroups],
                                        const Queries (&q)[kGroups], const T* keys, int count,
                                        int lane) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      scores[group].keys = count;
      for (float(&s)[4] : scores[group].s) s[0] = s[1] = s[2] = s[3] = 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      if (fill == Fill::kAny && j * 16 >= count) continue;
      const T* row = keys + (j * 16 + lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
      for (int k = 0; k < kSize / 16; ++k) {
        uint32_t b[4];
        load_matrices(b, row + k * 16);
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
          multiply_add<T>(scores[group].s[2 * j], q[group].a[k], b[0], b[1]);
          multiply_add<T>(scores[group].s[2 * j + 1], q[group].a[k], b[2], b[3]);
        }
      }
    }
    constexpr int kFirst = fill == Fill::kWhole ? kKeys : fill == Fill::kLastCut ? kKeys - 16 : 0;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int j = kFirst / 8; j < kKeys / 8; ++j) {
        for (int i = 0; i < 4; ++i) {
          if (j * 8 + lane % 4 * 2 + i % 2 >= count) scores[group].s[j][i] = -INFINITY;
        }
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

  // Adds the values, each times its score and its query's factor.
  template <Fill fill, int kGroups>
  static ATTNPATCH_DEVICE void add_values(Output (&out)[kGroups], const Scores<kKeys> (&p)[kGroups],
                                          const RowPair (&factor)[kGroups], const T* values,
                                          int lane) {
    const auto add = [&](int group, int c, const uint32_t(&a)[4], const uint32_t(&b)[4]) {
      multiply_add<T>(out[group].o[2 * c], a, b[0], b[1]);
      multiply_add<T>(out[group].o[2 * c + 1], a, b[2], b[3]);
    };
    each_product<fill>(p, factor, values, lane, add);
  }

  // The same for those of a lane's two queries that are on: an off one gets nothing, not even the
  // product of 0 with a NaN.
  template <Fill fill>
  static ATTNPATCH_DEVICE void add_values_where(Output& out, const Scores<kKeys> (&p)[1],
                                                const RowPair (&factor)[1], bool low, bool high,
                                                const T* values, int lane) {
    const auto add = [&](int, int c, const uint32_t(&a)[4], const uint32_t(&b)[4]) {
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

  // Calls body(group, c, a, b) for pieces of the product of scores and values: 16 keys by channels
  // [16 c, 16 c + 16).
  template <Fill fill, int kGroups, typename Body>
  static ATTNPATCH_DEVICE void each_product(const Scores<kKeys> (&p)[kGroups],
                                            const RowPair (&factor)[kGroups], const T* values,
                                            int lane, const Body& body) {
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      if (fill == Fill::kAny && j * 16 >= p[0].keys) continue;
      uint32_t a[kGroups][4];
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const float(&left)[4] = p[group].s[2 * j];
        const float(&right)[4] = p[group].s[2 * j + 1];
        const RowPair f = factor[group];
        a[group][0] = pack<T>(left[0] * f.low, left[1] * f.low);
        a[group][1] = pack<T>(left[2] * f.high, left[3] * f.high);
        a[group][2] = pack<T>(right[0] * f.low, right[1] * f.low);
        a[group][3] = pack<T>(right[2] * f.high, right[3] * f.high);
      }
      const T* row = values + (j * 16 + lane / 8 % 2 * 8 + lane % 8) * kStride + lane / 16 * 8;
#pragma unroll
      for (int c = 0; c < kSize / 16; ++c) {
        uint32_t b[4];
        load_matrices_transposed(b, row + c * 16);
#pragma unroll
        for (int group = 0; group < kGroups; ++group) body(group, c, a[group], b);
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

  // To 16 rows in shared memory.
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
