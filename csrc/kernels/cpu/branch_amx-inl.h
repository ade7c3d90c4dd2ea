// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Text and image prompts in bf16 by AMX: amx_attention-inl.h. 32 queries go through the softmaxes
// of their site, whose results have divisors in common:
//
//   out[query][channel] / divisor[query]
//
// A softmax of a single block begins a chain: its weights, and behind them those of small ones
// times their shares, have one product with all their values. Another single block is added after
// out has been turned to its divisors: no weight is rounded after a factor. What is longer, shared
// or masked goes through its blocks with a running maximum, its sums a matrix of their own, and is
// added in the end. Included once per instruction set.

#if defined(ATTNPATCH_BRANCH_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_BRANCH_AMX_INL_H_
#undef ATTNPATCH_BRANCH_AMX_INL_H_
#else
#define ATTNPATCH_BRANCH_AMX_INL_H_
#endif

#include <hwy/highway.h>

#include "kernels/cpu/amx_attention-inl.h"

#if ATTNPATCH_AMX_TARGET

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/arena.h"
#include "kernels/cpu/branch_factors-inl.h"
#include "kernels/cpu/packed_keys-inl.h"
#include "kernels/cpu/query_tile-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/scores-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Factors of the queries of M tiles, and which of them let nothing arrive: a bit each.
template <int M>
struct RowFactors {
  FloatVec value[M];
  uint32_t off = 0;
  bool moderate = true;  // may they be divided by?

  RowFactors(const Segment& s, const Place& place, bool shared) {
    const FloatTag d;
    const Factors<M> factors(s, place, shared);
    for (int m = 0; m < M; ++m) {
      value[m] = factors.value[m];
      uint8_t bits[8] = {};
      hn::StoreMaskBits(d, factors.off[m], bits);
      off |= (bits[0] | uint32_t{bits[1]} << 8) << (m * kLanes);
      const FloatVec size = hn::Abs(value[m]);
      moderate &=
          hn::AllTrue(d, hn::And(hn::Ge(size, hn::Set(d, 1e-6f)), hn::Le(size, hn::Set(d, 1e6f))));
    }
  }
};

// All bits of M tiles' queries.
template <int M>
constexpr uint32_t kEvery = M == 2 ? ~0u : 0xFFFFu;

class AmxBranches {
 public:
  static constexpr int64_t kPanel = kMatrixKeys;

  static int64_t head_floats(int64_t keys, int64_t size) {
    return keys * MatrixShape(size).key_floats();
  }

  AmxBranches(Arena::Scope& memory, int64_t /*most_keys*/, int64_t size)
      : shape_(size),
        scratch_(memory, shape_),
        queries_(
            reinterpret_cast<uint16_t*>(memory.take(kMatrixRows * shape_.query_numbers() / 2))),
        out_(memory.take(kMatrixRows * shape_.out_floats())),
        part_(memory.take(kMatrixRows * shape_.out_floats())),
        apart_(memory.take(kMatrixRows * shape_.out_floats())),
        chain_(reinterpret_cast<uint16_t*>(memory.take(kMatrixRows * kChainKeys / 2))),
        copy_(memory.take(shape_.out_floats())) {}

  void pack(const Segments& segments, int64_t h, float* head) {
    int64_t key = 0;
    for (const Segment& s : segments.list) {
      const auto* k = head_of<uint16_t>(*s.k, s.row, h);
      const auto* v = head_of<uint16_t>(*s.v, s.row, h);
      const auto row = [&](int64_t i) {
        return KeyRow<uint16_t>{k + i * s.k->token_stride, v + i * s.v->token_stride,
                                s.k->channel_stride, s.v->channel_stride};
      };
      pack_matrices(s.tokens, row, shape_,
                    MatrixKeys(head, segments.keys, shape_).from(key, shape_), scratch_.rows);
      key += segments.packed(s);
    }
  }

  void attend(const HeadQueries& a, int64_t all, const Segments& segments, float* head) {
    const auto* q = head_of<uint16_t>(*a.q, a.b, a.h);
    auto* out = const_cast<uint16_t*>(head_of<uint16_t>(*a.out, a.b, a.h));
    const int64_t q_stride = a.q->token_stride, out_stride = a.out->token_stride;
    for (int64_t query = a.begin; query < a.end; query += kMatrixRows) {
      const int64_t count = HWY_MIN(a.end - query, kMatrixRows);
      const int64_t shares = HWY_MAX(segments.keys / kBlockKeys, 1) * count;
      next_queries_ = a.rows_ahead<uint16_t>(query + count, kMatrixRows, shares);
      results_ = RowsAhead(out + query * out_stride, out_stride, count, a.size, shares);
      for (int64_t i = 0; i < round_up(count, amx::kRows); ++i) {
        copy_whole_row(q + (query + HWY_MIN(i, count - 1)) * q_stride, a.q->channel_stride, shape_,
                       queries_ + i * shape_.query_numbers());
      }
      const Site site{&segments,    MatrixKeys(head, segments.keys, shape_),
                      {query, all}, a.factor,
                      count,        out + query * out_stride,
                      out_stride,   a.out->channel_stride};
      if (count > amx::kRows) {
        attend_rows<2>(site);
      } else {
        attend_rows<1>(site);
      }
    }
  }

 private:
  static constexpr int64_t kChainKeys = 2 * kBlockKeys;

  struct Site {
    const Segments* segments;
    MatrixKeys head;
    Place place;
    float factor;   // of the scores
    int64_t count;  // of queries, whose results are written to
    uint16_t* out;
    int64_t stride, channel_stride;
  };

  // A block of a segment's keys.
  struct Keys {
    MatrixKeys packed;
    int64_t count;
  };

  template <int M>
  void attend_rows(const Site& site) {
    const Segments& segments = *site.segments;
    const auto total = static_cast<int64_t>(segments.list.size());
    more_ = false;
    chained_ = 0;
    std::fill_n(divisors_, kMatrixRows, 1.0f);
    int64_t key = 0;
    for (int64_t begin = 0; begin < total;) {
      const int64_t end = begin < segments.grouped ? segments.grouped : begin + 1;
      const Segment& first = segments.list[begin];
      const bool whole = first.weight == 1.0f && first.mask == nullptr;
      if (begin < segments.grouped && (end > begin + 1 || !whole)) {
        add_parts<M>(site, begin, end, key, nullptr);
      } else {
        add_branch<M>(site, first, begin, key);
      }
      for (; begin < end; ++begin) key += segments.packed(segments.list[begin]);
    }
    if (chained_ > 0 && !more_) return store_chain<M>(site);
    end_chain<M>(site);
    if (!more_) std::fill_n(out_, M * amx::kRows * shape_.out_floats(), 0.0f);
    for (int64_t i = 0; i < site.count; ++i) {
      store_result<BFloat16>(out_ + i * shape_.out_floats(), 1.0f / divisors_[i], shape_.size,
                             site.out + i * site.stride, site.channel_stride, copy_);
    }
  }

  // A softmax over the keys of one segment, which stand at `key`.
  template <int M>
  void add_branch(const Site& site, const Segment& s, int64_t number, int64_t key) {
    const RowFactors<M> factors(s, site.place, false);
    if (factors.off == kEvery<M>) return;
    if (!factors.moderate || s.tokens > kBlockKeys) {
      return add_parts<M>(site, number, number + 1, key, &factors);
    }
    const Keys keys{site.head.from(key, shape_), s.tokens};
    Softmax<M> softmax;
    find_largest<M>(site, keys, 0, softmax);
    if (chained_ > 0 && s.tokens <= amx::kRows && key == chain_key_ + chained_ &&
        chained_ < kChainKeys) {
      FloatVec few[M][amx::kRows];
      scratch_.make_few_weights<M>(keys.count, site.factor, softmax.top, few, softmax.sum);
      HWY_ALIGN float shares[kMatrixRows];
      divisors_over<M>(softmax, factors.value, shares);
      scratch_.split_weights<M>(few, shares, chain_ + chained_, kChainKeys);
      chained_ += kMatrixKeys;
      return;
    }
    end_chain<M>(site);
    const bool begins = !more_;  // a chain
    make_weights<M>(site, keys, softmax.top, softmax.sum, begins ? chain_ : scratch_.weights(),
                    begins ? kChainKeys : MatrixScratch::kWeightsStride);
    divide_by<M>(softmax, factors.value);
    if (begins) {
      chain_key_ = key;
      chained_ = round_up(keys.count, kMatrixKeys);
    } else {
      add_products<M>(keys, true, out_);
    }
  }

  // One softmax over the keys of segments [begin, end), the first of which stands at `key`. Without
  // factors they share it: each has its own.
  template <int M>
  void add_parts(const Site& site, int64_t begin, int64_t end, int64_t key,
                 const RowFactors<M>* of_all) {
    const FloatTag d;
    end_chain<M>(site);
    Softmax<M> softmax;
    FloatVec found[M];
    bool begun = false;  // stands something in part?
    for (int64_t i = begin; i < end; ++i) {
      const Segment& s = site.segments->list[i];
      const RowFactors<M> own(s, site.place, true);
      const bool whole = of_all != nullptr || (s.weight == 1.0f && s.mask == nullptr);
      const uint32_t off = whole ? 0 : own.off;
      const int64_t length = block_length(s.tokens, kMatrixKeys);
      for (int64_t t = 0; t < s.tokens && off != kEvery<M>; t += length) {
        const Keys keys{site.head.from(key + t, shape_), HWY_MIN(length, s.tokens - t)};
        find_largest<M>(site, keys, off, softmax);
        make_weights<M>(site, keys, softmax.top, found, scratch_.weights(),
                        MatrixScratch::kWeightsStride);
        for (int m = 0; m < M; ++m) {
          if (!whole) {
            found[m] = hn::IfThenZeroElse(bits_of(off, m), hn::Mul(found[m], own.value[m]));
          }
          softmax.sum[m] = hn::MulAdd(softmax.sum[m], softmax.fade[m], found[m]);
        }
        add_block<M>(keys, whole ? nullptr : &own, softmax.fade, begun);
        begun = true;
      }
      key += site.segments->packed(s);
    }
    if (!begun) std::fill_n(part_, M * amx::kRows * shape_.out_floats(), 0.0f);
    FloatVec ones[M];
    for (int m = 0; m < M; ++m) ones[m] = hn::Set(d, 1.0f);
    HWY_ALIGN float shares[kMatrixRows];
    divisors_over<M>(softmax, ones, shares);
    for (int m = 0; of_all != nullptr && m < M; ++m) {
      float* of_tile = shares + m * kLanes;
      hn::Store(hn::Mul(hn::Load(d, of_tile), of_all->value[m]), d, of_tile);
    }
    add_rows<M>(part_, shares, of_all != nullptr ? of_all->off : 0, more_, out_);
    more_ = true;
  }

  // Scores of a block's keys, and the running maxima; nothing of it counts where it is off.
  template <int M>
  void find_largest(const Site& site, const Keys& keys, uint32_t off, Softmax<M>& softmax) {
    scratch_.find_scores<M>(queries_, keys.packed, keys.count, shape_);
    scratch_.raise<M>(keys.count, site.factor, off, softmax.top, softmax.fade);
  }

  template <int M>
  void make_weights(const Site& site, const Keys& keys, const FloatVec* top, FloatVec* sum,
                    uint16_t* to, int64_t stride) {
    scratch_.make_weights<M>(keys.count, site.factor, top, sum, to, stride, [this]() HWY_ATTR {
      next_queries_.send_share();
      results_.send_share();
    });
  }

  // The divisor that gives a softmax's results these factors; not a number where it had no key.
  template <int M>
  static FloatVec divisor_of(const Softmax<M>& softmax, const FloatVec* factors, int m) {
    const FloatTag d;
    const auto none = hn::Eq(softmax.top[m], hn::Set(d, kNoKey));
    return hn::IfThenElse(none, hn::NaN(d), hn::Div(softmax.sum[m], factors[m]));
  }

  // The divisors over a softmax's own.
  template <int M>
  void divisors_over(const Softmax<M>& softmax, const FloatVec* factors, float* shares) const {
    const FloatTag d;
    for (int m = 0; m < M; ++m) {
      hn::Store(hn::Div(hn::Load(d, divisors_ + m * kLanes), divisor_of<M>(softmax, factors, m)), d,
                shares + m * kLanes);
    }
  }

  // The divisors become a softmax's; what stands in out stays the same over them.
  template <int M>
  void divide_by(const Softmax<M>& softmax, const FloatVec* factors) {
    const FloatTag d;
    HWY_ALIGN float ratios[kMatrixRows];
    for (int m = 0; m < M; ++m) {
      const FloatVec divisor = divisor_of<M>(softmax, factors, m);
      hn::Store(hn::Div(divisor, hn::Load(d, divisors_ + m * kLanes)), d, ratios + m * kLanes);
      hn::Store(divisor, d, divisors_ + m * kLanes);
    }
    if (more_) multiply_rows<M>(ratios, shape_, out_);
  }

  // The chain's products come to out.
  template <int M>
  void end_chain(const Site& site) {
    if (chained_ == 0) return;
    MatrixScratch::add_values<M>(chain_, kChainKeys, site.head.from(chain_key_, shape_), chained_,
                                 shape_, more_, out_);
    more_ = true;
    chained_ = 0;
  }

  // They are all that there is: they go to the tensor, 32 columns at a time.
  template <int M>
  void store_chain(const Site& site) {
    const MatrixKeys keys = site.head.from(chain_key_, shape_);
    for (int64_t c = 0; c < shape_.columns; c += 2) {
      const int64_t first = c * amx::kRows, width = HWY_MIN(shape_.columns - c, 2) * amx::kRows;
      MatrixScratch::add_columns<M>(chain_, kChainKeys, keys, chained_, shape_, c, false, part_,
                                    width);
      for (int64_t i = 0; i < site.count; ++i) {
        store_result<BFloat16>(
            part_ + i * width, 1.0f / divisors_[i], HWY_MIN(width, shape_.size - first),
            site.out + i * site.stride + first * site.channel_stride, site.channel_stride, copy_);
      }
    }
  }

  // A block's products, on top of what came before it, faded, if it has begun. With factors they
  // are found apart: what is off adds nothing, whatever the values.
  template <int M>
  void add_block(const Keys& keys, const RowFactors<M>* factors, const FloatVec* fade, bool begun) {
    const FloatTag d;
    if (begun) fade_rows<M>(fade, shape_, part_);
    if (factors == nullptr) return add_products<M>(keys, begun, part_);
    add_products<M>(keys, false, apart_);
    HWY_ALIGN float of_row[kMatrixRows];
    for (int m = 0; m < M; ++m) hn::Store(factors->value[m], d, of_row + m * kLanes);
    add_rows<M>(apart_, of_row, factors->off, begun, part_);
  }

  template <int M>
  void add_products(const Keys& keys, bool more, float* to) const {
    MatrixScratch::add_values<M>(scratch_.weights(), MatrixScratch::kWeightsStride, keys.packed,
                                 keys.count, shape_, more, to);
  }

  // to = from times the rows' factors, or zero where they are off; on top of what stands there if
  // `more`.
  template <int M>
  void add_rows(const float* from, const float* factors, uint32_t off, bool more, float* to) const {
    const FloatTag d;
    for (int64_t i = 0; i < M * amx::kRows; ++i) {
      const bool none = (off >> i & 1) != 0;
      const FloatVec factor = hn::Set(d, factors[i]);
      for (int64_t c = 0; c < shape_.out_floats(); c += kLanes, from += kLanes, to += kLanes) {
        const FloatVec x = none ? hn::Zero(d) : hn::Mul(hn::Load(d, from), factor);
        hn::Store(more ? hn::Add(hn::Load(d, to), x) : x, d, to);
      }
    }
  }

  amx::Tiles tiles_;
  MatrixShape shape_;
  MatrixScratch scratch_;
  uint16_t* queries_;
  float *out_, *part_, *apart_;
  bool more_ = false;  // stands something in out?
  uint16_t* chain_;    // weights [query][key] of the keys packed from chain_key_ on
  int64_t chain_key_ = 0, chained_ = 0;
  float* copy_;
  HWY_ALIGN float divisors_[kMatrixRows];  // of the results, row by row
  RowsAhead next_queries_, results_;
};

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_AMX_TARGET

#endif  // ATTNPATCH_BRANCH_AMX_INL_H_
