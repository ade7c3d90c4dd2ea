// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention to any count of keys in bf16 by AMX: as online_softmax-inl.h, by amx_attention-inl.h. A
// run's queries and sums stay in L2, a block of keys is packed once for all of them. Included once
// per instruction set.

#if defined(ATTNPATCH_ONLINE_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_ONLINE_AMX_INL_H_
#undef ATTNPATCH_ONLINE_AMX_INL_H_
#else
#define ATTNPATCH_ONLINE_AMX_INL_H_
#endif

#include <hwy/highway.h>

#include "kernels/cpu/amx_attention-inl.h"

#if ATTNPATCH_AMX_TARGET

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/arena.h"
#include "kernels/cpu/online_softmax-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/scores-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

class AmxOnline {
 public:
  AmxOnline(Arena::Scope& memory, int64_t queries, int64_t keys, const HeadSizes& sizes)
      : sizes_(sizes),
        shape_(sizes.values),
        scratch_(memory, shape_),
        padded_keys_(round_up(keys, kMatrixKeys)) {
    const int64_t rows = round_up(queries, kMatrixRows);
    queries_ = reinterpret_cast<uint16_t*>(memory.take(rows * shape_.query_numbers() / 2));
    out_ = memory.take(rows * shape_.out_floats());
    top_ = memory.take(rows);
    sum_ = memory.take(rows);
    query_bias_ = memory.take(rows * sizes.bias_width);
    packed_ = memory.take(padded_keys_ * shape_.key_floats());
    key_bias_ = memory.take(padded_keys_ * sizes.bias);
    copy_ = memory.take(shape_.out_floats());
  }

  // As attend of online_softmax-inl.h.
  template <typename Keys, typename Queries>
  void attend(const Keys& keys, const Queries& queries, bool packed) {
    const int64_t all = keys.count(), length = block_length(all, kMatrixKeys);
    const int64_t count = queries.count(), size = sizes_.values;
    const int64_t tiles = (count + kMatrixRows - 1) / kMatrixRows;
    const int64_t share = (length + tiles - 1) / tiles;
    int64_t begin = 0;
    do {  // once where there is no key
      const int64_t some = HWY_MIN(length, all - begin);
      const bool first = begin == 0, last = begin + length >= all;
      if (!packed) pack(keys, begin, some);
      const MatrixKeys block = MatrixKeys(packed_, padded_keys_, shape_).from(begin, shape_);
      for (int64_t i = 0; i < count; i += kMatrixRows) {
        const int64_t rows = HWY_MIN(kMatrixRows, count - i);
        const int64_t ahead = begin + length + i / kMatrixRows * share;
        if (first) request_queries(queries, i + kMatrixRows, i + 2 * kMatrixRows, size, requests_);
        if (last) request_results(queries, i, i + kMatrixRows, size, requests_);
        if (!packed) request_keys(keys, ahead, ahead + share, size, requests_);
        requests_.finish(kMatrixRows);
        if (first) load(queries, i, rows);
        if (rows > amx::kRows) {
          take_in<2>(block, begin, some, i);
        } else {
          take_in<1>(block, begin, some, i);
        }
        if (last) store(queries, i, rows);
      }
      begin += length;
    } while (begin < all);
  }

 private:
  template <typename Keys>
  void pack(const Keys& keys, int64_t begin, int64_t count) {
    pack_matrices(
        count, [&](int64_t i) { return keys.row(begin + i); }, shape_,
        MatrixKeys(packed_, padded_keys_, shape_).from(begin, shape_), scratch_.rows);
    for (int64_t i = 0; i < round_up(count, amx::kRows) && sizes_.bias > 0; ++i) {
      const float* channels = keys.bias(begin + HWY_MIN(i, count - 1));
      for (int64_t r = 0; r < sizes_.bias; ++r)
        key_bias_[r * padded_keys_ + begin + i] = channels[r];
    }
  }

  template <typename Queries>
  void load(const Queries& queries, int64_t begin, int64_t count) {
    for (int64_t i = 0; i < round_up(count, amx::kRows); ++i) {
      const int64_t number = begin + HWY_MIN(i, count - 1);
      copy_whole_row(queries.row(number), queries.q().channel_stride, shape_,
                     queries_ + (begin + i) * shape_.query_numbers());
      const float* bias = queries.bias(number);
      if (bias == nullptr) continue;
      std::copy_n(bias, sizes_.bias_width, query_bias_ + (begin + i) * sizes_.bias_width);
    }
    std::fill_n(top_ + begin, kMatrixRows, kNoKey);
    std::fill_n(sum_ + begin, kMatrixRows, 0.0f);
    std::fill_n(out_ + begin * shape_.out_floats(), kMatrixRows * shape_.out_floats(), 0.0f);
  }

  // 16 M queries from number `begin` on take in `count` keys from number `key` on.
  template <int M>
  void take_in(const MatrixKeys& block, int64_t key, int64_t count, int64_t begin) {
    const FloatTag d;
    if (count == 0) return;
    float factor = sizes_.factor;
    scratch_.find_scores<M>(queries_ + begin * shape_.query_numbers(), block, count, shape_);
    if (sizes_.bias > 0) {
      const MatrixBias bias{sizes_.bias, query_bias_ + begin * sizes_.bias_width, sizes_.bias_width,
                            key_bias_ + key, padded_keys_};
      scratch_.add_bias<M>(count, factor, bias);
      factor = 1.0f;
    }
    FloatVec top[M], fade[M], found[M];
    for (int m = 0; m < M; ++m) top[m] = hn::Load(d, top_ + begin + m * kLanes);
    scratch_.raise<M>(count, factor, 0, top, fade);
    int64_t row = 0;
    scratch_.make_weights<M>(count, factor, top, found, scratch_.weights(),
                             MatrixScratch::kWeightsStride,
                             [&]() HWY_ATTR { requests_.send(row++); });
    for (int m = 0; m < M; ++m) {
      float* sum = sum_ + begin + m * kLanes;
      hn::Store(hn::MulAdd(hn::Load(d, sum), fade[m], found[m]), d, sum);
      hn::Store(top[m], d, top_ + begin + m * kLanes);
    }
    float* out = out_ + begin * shape_.out_floats();
    if (key > 0) fade_rows<M>(fade, shape_, out);
    MatrixScratch::add_values<M>(scratch_.weights(), MatrixScratch::kWeightsStride, block, count,
                                 shape_, key > 0, out);
  }

  template <typename Queries>
  void store(const Queries& queries, int64_t begin, int64_t count) {
    for (int64_t i = begin; i < begin + count; ++i) {
      const float share =
          top_[i] == kNoKey ? std::numeric_limits<float>::quiet_NaN() : 1.0f / sum_[i];
      store_result<BFloat16>(out_ + i * shape_.out_floats(), share, sizes_.values,
                             queries.result(i), queries.out().channel_stride, copy_);
    }
  }

  amx::Tiles tiles_;
  HeadSizes sizes_;
  MatrixShape shape_;
  MatrixScratch scratch_;
  int64_t padded_keys_;
  uint16_t* queries_;                        // [query][number], whole tiles
  float *out_, *top_, *sum_;                 // [query][channel], [query], [query]
  float *packed_, *query_bias_, *key_bias_;  // all keys of a head; [query][channel], [channel][key]
  float* copy_;
  Requests requests_;
};

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_AMX_TARGET

#endif  // ATTNPATCH_ONLINE_AMX_INL_H_
