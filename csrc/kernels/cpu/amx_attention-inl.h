// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention of up to 32 queries to a block of keys in bf16, by AMX. Queries are rows of tiles, so
// that they are read and their results written as they stand; maxima and sums are taken along rows
// of scores, and of 16 rows at a time across the lanes:
//
//   scores[query][key] = Q[query] · K[key],  weights = 2^(factor scores - maximum),
//   out[query][channel] += weights[query] · V[channel]
//
// Included once per instruction set.

#if defined(ATTNPATCH_AMX_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_AMX_ATTENTION_INL_H_
#undef ATTNPATCH_AMX_ATTENTION_INL_H_
#else
#define ATTNPATCH_AMX_ATTENTION_INL_H_
#endif

#include <hwy/highway.h>

#include "kernels/cpu/amx_packing-inl.h"

#if ATTNPATCH_AMX_TARGET

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/arena.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/scores-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A vector of the results of 16, of each of which the lanes are reduced to one.
template <typename Op>
HWY_INLINE FloatVec reduce_each(const FloatVec (&x)[16], const Op& op) {
  __m512 two[8], four[4], eight[2];
  for (int i = 0; i < 8; ++i) {
    const __m512 a = x[2 * i].raw, b = x[2 * i + 1].raw;
    two[i] = op(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(two[2 * i]), b = _mm512_castps_pd(two[2 * i + 1]);
    four[i] =
        op(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  for (int i = 0; i < 2; ++i) {
    const __m512 a = four[2 * i], b = four[2 * i + 1];
    eight[i] = op(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  }
  return FloatVec{op(_mm512_shuffle_f32x4(eight[0], eight[1], 0x88),
                     _mm512_shuffle_f32x4(eight[0], eight[1], 0xDD))};
}

struct Largest {
  HWY_INLINE __m512 operator()(__m512 a, __m512 b) const { return _mm512_max_ps(a, b); }
};

struct Sum {
  HWY_INLINE __m512 operator()(__m512 a, __m512 b) const { return _mm512_add_ps(a, b); }
};

// 2^x for what is rounded to bf16, to a relative error below 3e-6; a NaN stays one, minus infinity
// becomes 0.
HWY_INLINE FloatVec exp2_for_bfloat16(FloatVec x) {
  const FloatTag d;
  const FloatVec f{
      _mm512_reduce_ps(x.raw, _MM_FROUND_TO_NEG_INF)};  // x less the whole number below
  FloatVec p = hn::Set(d, 0.0135341687f);
  p = hn::MulAdd(p, f, hn::Set(d, 0.0520114563f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.241442755f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.693003833f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.00000262f));
  return FloatVec{_mm512_scalef_ps(p.raw, x.raw)};  // by that number
}

// Two vectors as one of bf16, the first in the lower half. Rounding is to nearest even.
HWY_INLINE __m512i to_bfloat16(FloatVec first, FloatVec second) {
  __m512i out;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(out) : "v"(first.raw), "v"(second.raw));
  return out;
}

// The queries of tile m whose bits are set.
HWY_INLINE hn::Mask<FloatTag> bits_of(uint32_t queries, int m) {
  const auto bits = static_cast<uint16_t>(queries >> (m * amx::kRows));
  const uint8_t bytes[8] = {static_cast<uint8_t>(bits), static_cast<uint8_t>(bits >> 8)};
  return hn::LoadMaskBits(FloatTag(), bytes);
}

// A bias of scores as sums of products in fp32: of queries [query][width], of a block's keys
// [channel][key], where they stand `keys_apart` floats apart.
struct MatrixBias {
  int64_t count = 0;
  const float* of_queries = nullptr;
  int64_t width = 0;
  const float* of_keys = nullptr;
  int64_t keys_apart = 0;
};

// The working memory of one thread, and its steps, each for M tiles of 16 queries.
struct MatrixScratch {
  float* scores;   // [query][key]; weights may take their place, in half of a row
  uint16_t* rows;  // 32 whole rows

  MatrixScratch(Arena::Scope& memory, const MatrixShape& shape)
      : scores(memory.take(kMatrixRows * kBlockKeys)),
        rows(reinterpret_cast<uint16_t*>(memory.take(kMatrixRows * shape.query_numbers() / 2))) {}

  // Scores of `count` keys, rounded up to 16.
  template <int M>
  void find_scores(const uint16_t* queries, const MatrixKeys& keys, int64_t count,
                   const MatrixShape& shape) const {
    const int64_t apart = shape.terms * amx::kTileFloats;
    int64_t key = 0;
    for (; key + amx::kRows < count; key += kMatrixKeys) {
      products<M, 2>(queries, shape.query_numbers(), keys.keys + key / amx::kRows * apart, apart,
                     amx::kTileFloats, shape.terms, false, scores + key, kBlockKeys);
    }
    if (key >= count) return;
    products<M, 1>(queries, shape.query_numbers(), keys.keys + key / amx::kRows * apart, apart,
                   amx::kTileFloats, shape.terms, false, scores + key, kBlockKeys);
  }

  // The scores get the bias, and the factor first.
  template <int M>
  void add_bias(int64_t count, float factor, const MatrixBias& bias) const {
    const FloatTag d;
    const FloatVec times = hn::Set(d, factor);
    for (int64_t i = 0; i < M * amx::kRows; ++i) {
      const float* of_query = bias.of_queries + i * bias.width;
      for (int64_t key = 0; key < count; key += kLanes) {
        float* at = scores + i * kBlockKeys + key;
        FloatVec x = hn::Mul(hn::Load(d, at), times);
        for (int64_t r = 0; r < bias.count; ++r) {
          x = hn::MulAdd(hn::Set(d, of_query[r]),
                         hn::Load(d, bias.of_keys + r * bias.keys_apart + key), x);
        }
        hn::Store(x, d, at);
      }
    }
  }

  // Running maxima take in the largest of each query's scores times the factor, but where a query's
  // bit of `off` is set; `fade` takes what came before to the new maximum.
  template <int M>
  void raise(int64_t count, float factor, uint32_t off, FloatVec* top, FloatVec* fade) const {
    const FloatTag d;
    const FloatVec times = hn::Set(d, factor);
    for (int m = 0; m < M; ++m) {
      FloatVec most[amx::kRows];
      const float* row = scores + m * amx::kRows * kBlockKeys;
      for (int64_t i = 0; i < amx::kRows; ++i, row += kBlockKeys) {
        most[i] = hn::Mul(hn::Load(d, row), times);
        for (int64_t key = kLanes; key < count; key += kLanes) {
          most[i] = hn::Max(most[i], hn::Mul(hn::Load(d, row + key), times));
        }
      }
      const FloatVec before = top[m], largest = reduce_each(most, Largest());
      top[m] = hn::Max(before, hn::IfThenElse(bits_of(off, m), hn::Set(d, kNoKey), largest));
      fade[m] = exp2_nonpositive(hn::Sub(before, top[m]));
    }
  }

  // The weights 2^(factor score - top), of which rows lie `stride` numbers apart, and their sums;
  // up to whole tiles the others are 0. each_row() is called with every query.
  template <int M, typename EachRow>
  void make_weights(int64_t count, float factor, const FloatVec* top, FloatVec* sum, uint16_t* to,
                    int64_t stride, const EachRow& each_row) const {
    const FloatTag d;
    const FloatVec times = hn::Set(d, factor);
    const int64_t whole = count / kMatrixKeys * kMatrixKeys;
    const auto in_first = hn::FirstN(d, static_cast<size_t>(HWY_MIN(count - whole, kLanes)));
    const auto in_second = hn::FirstN(d, static_cast<size_t>(HWY_MAX(count - whole - kLanes, 0)));
    for (int m = 0; m < M; ++m) {
      HWY_ALIGN float tops[amx::kRows];
      hn::Store(top[m], d, tops);
      FloatVec sums[amx::kRows];
      const float* row = scores + m * amx::kRows * kBlockKeys;
      for (int64_t i = 0; i < amx::kRows; ++i, row += kBlockKeys, to += stride) {
        each_row();
        const FloatVec largest = hn::Set(d, tops[i]);
        const auto weight = [&](int64_t key) HWY_ATTR {
          return exp2_for_bfloat16(hn::MulSub(hn::Load(d, row + key), times, largest));
        };
        FloatVec all = hn::Zero(d);
        for (int64_t key = 0; key < whole; key += kMatrixKeys) {
          const FloatVec first = weight(key), second = weight(key + kLanes);
          all = hn::Add(all, hn::Add(first, second));
          _mm512_store_si512(to + key, to_bfloat16(first, second));
        }
        if (whole < count) {
          const FloatVec first = hn::IfThenElseZero(in_first, weight(whole));
          const FloatVec second = hn::IfThenElseZero(in_second, weight(whole + kLanes));
          all = hn::Add(all, hn::Add(first, second));
          _mm512_store_si512(to + whole, to_bfloat16(first, second));
        }
        sums[i] = all;
      }
      sum[m] = reduce_each(sums, Sum());
    }
  }

  // The same of 16 keys or fewer, as vectors in fp32.
  template <int M>
  void make_few_weights(int64_t count, float factor, const FloatVec* top,
                        FloatVec (*few)[amx::kRows], FloatVec* sum) const {
    const FloatTag d;
    const FloatVec times = hn::Set(d, factor);
    const auto keys = hn::FirstN(d, static_cast<size_t>(count));
    for (int m = 0; m < M; ++m) {
      HWY_ALIGN float tops[amx::kRows];
      hn::Store(top[m], d, tops);
      for (int64_t i = 0; i < amx::kRows; ++i) {
        const FloatVec score = hn::Load(d, scores + (m * amx::kRows + i) * kBlockKeys);
        const FloatVec x = hn::MulSub(score, times, hn::Set(d, tops[i]));
        few[m][i] = hn::IfThenElseZero(keys, exp2_for_bfloat16(x));
      }
      sum[m] = reduce_each(few[m], Sum());
    }
  }

  // Those times the queries' shares, as sums of two numbers in bf16 for the values that stand
  // twice: a share adds no error.
  template <int M>
  void split_weights(const FloatVec (*few)[amx::kRows], const float* shares, uint16_t* to,
                     int64_t stride) const {
    const FloatTag d;
    const hn::RebindToUnsigned<FloatTag> bits;
    for (int64_t i = 0; i < M * amx::kRows; ++i, to += stride) {
      const FloatVec x = hn::Mul(few[i / amx::kRows][i % amx::kRows], hn::Set(d, shares[i]));
      const FloatVec high =
          hn::BitCast(d, hn::And(hn::BitCast(bits, x), hn::Set(bits, 0xFFFF0000u)));
      _mm512_store_si512(to, to_bfloat16(high, hn::Sub(x, high)));
    }
  }

  // Columns [16 c, 16 c + 32) of results, or 16 at the end: the products of weights and values, on
  // top of what stands there if `more`. Rows of `weights` lie `stride` numbers apart, those of out
  // `out_stride`.
  template <int M>
  static void add_columns(const uint16_t* weights, int64_t stride, const MatrixKeys& keys,
                          int64_t count, const MatrixShape& shape, int64_t c, bool more, float* out,
                          int64_t out_stride) {
    const int64_t steps = (count + kMatrixKeys - 1) / kMatrixKeys;
    const int64_t apart = shape.columns * amx::kTileFloats;
    const float* values = keys.values + c * amx::kTileFloats;
    if (c + 1 < shape.columns) {
      products<M, 2>(weights, stride, values, amx::kTileFloats, apart, steps, more, out,
                     out_stride);
    } else {
      products<M, 1>(weights, stride, values, amx::kTileFloats, apart, steps, more, out,
                     out_stride);
    }
  }

  // All of them: out[query][channel], of which rows lie shape.out_floats() apart.
  template <int M>
  static void add_values(const uint16_t* weights, int64_t stride, const MatrixKeys& keys,
                         int64_t count, const MatrixShape& shape, bool more, float* out) {
    for (int64_t c = 0; c < shape.columns; c += 2) {
      add_columns<M>(weights, stride, keys, count, shape, c, more, out + c * amx::kRows,
                     shape.out_floats());
    }
  }

  // Weights in the place of the scores that they are of.
  uint16_t* weights() const { return reinterpret_cast<uint16_t*>(scores); }
  static constexpr int64_t kWeightsStride = 2 * kBlockKeys;

 private:
  // M by N tiles of out: the sum of `steps` products.
  template <int M, int N>
  static void products(const uint16_t* a, int64_t a_stride, const float* b, int64_t b_apart,
                       int64_t b_step, int64_t steps, bool more, float* out, int64_t out_stride) {
    using Block = amx::Block<M, N>;
    if (more) {
      Block::load(out, out_stride);
    } else {
      Block::zero();
    }
    for (int64_t s = 0; s < steps; ++s, a += amx::kTerms, b += b_step) {
      Block::multiply_add(a, a_stride, b, b_apart);
    }
    Block::store(out, out_stride);
  }
};

// Rows of M tiles of results times their factors.
template <int M>
HWY_INLINE void multiply_rows(const float* factors, const MatrixShape& shape, float* rows) {
  const FloatTag d;
  for (int64_t i = 0; i < M * amx::kRows; ++i) {
    const FloatVec factor = hn::Set(d, factors[i]);
    for (int64_t c = 0; c < shape.out_floats(); c += kLanes, rows += kLanes) {
      hn::Store(hn::Mul(hn::Load(d, rows), factor), d, rows);
    }
  }
}

// The same, where any fades.
template <int M>
HWY_INLINE void fade_rows(const FloatVec* fade, const MatrixShape& shape, float* rows) {
  const FloatTag d;
  HWY_ALIGN float factors[kMatrixRows];
  bool fading = false;
  for (int m = 0; m < M; ++m) {
    hn::Store(fade[m], d, factors + m * kLanes);
    fading |= !hn::AllTrue(d, hn::Eq(fade[m], hn::Set(d, 1.0f)));
  }
  if (fading) multiply_rows<M>(factors, shape, rows);
}

// A row of results times its share, into a tensor.
template <typename Format>
HWY_INLINE void store_result(const float* from, float share, int64_t size, uint16_t* to,
                             int64_t stride, float* copy) {
  const FloatTag d;
  const FloatVec times = hn::Set(d, share);
  int64_t c = 0;
  if (stride == 1) {
    for (; c + 2 * kLanes <= size; c += 2 * kLanes) {
      _mm512_storeu_si512(to + c, to_bfloat16(hn::Mul(hn::Load(d, from + c), times),
                                              hn::Mul(hn::Load(d, from + c + kLanes), times)));
    }
  }
  if (c == size) return;
  for (int64_t i = c; i < size; i += kLanes) {
    hn::Store(hn::Mul(hn::Load(d, from + i), times), d, copy + i - c);
  }
  store_row<Format>(copy, size - c, to + c * stride, stride);
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_AMX_TARGET

#endif  // ATTNPATCH_AMX_ATTENTION_INL_H_
