// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Text and image prompts in bf16 by AMX: amx_attention-inl.h. 32 queries go through the softmaxes
// of their site. The products of one of a single block come on top of what stands in the results,
// which are turned to its divisors before: factors of queries are not rounded. Another goes through
// its blocks with a running maximum, its sums a matrix of their own, and is added in the end.
// Included once per instruction set.

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
      const int64_t next = query + count, shares = HWY_MAX(segments.keys / kBlockKeys, 1) * count;
      next_queries_ = RowsAhead(q + next * q_stride, q_stride, HWY_MIN(a.end - next, kMatrixRows),
                                a.size, shares);
      results_ = RowsAhead(out + query * out_stride, out_stride, count, a.size, shares);
      for (int64_t i = 0; i < round_up(count, amx::kRows); ++i) {
        copy_whole_row(q + (query + HWY_MIN(i, count - 1)) * q_stride, a.q->channel_stride, shape_,
                       queries_ + i * shape_.query_numbers());
      }
      const Site site{&segments, MatrixKeys(head, segments.keys, shape_), {query, all}, a.factor};
      if (count > amx::kRows) {
        attend_rows<2>(site);
      } else {
        attend_rows<1>(site);
      }
      for (int64_t i = 0; i < count; ++i) {
        store_result<BFloat16>(out_ + i * shape_.out_floats(), 1.0f / divisors_[i], a.size,
                               out + (query + i) * out_stride, a.out->channel_stride, copy_);
      }
    }
  }

 private:
  struct Site {
    const Segments* segments;
    MatrixKeys head;
    Place place;
    float factor;  // of the scores
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
    bool more = false;  // stands something in out?
    std::fill_n(divisors_, kMatrixRows, 1.0f);
    int64_t key = 0;
    for (int64_t begin = 0; begin < total;) {
      const int64_t end = begin < segments.grouped ? segments.grouped : begin + 1;
      more |= add_softmax<M>(site, begin, end, key, more);
      for (; begin < end; ++begin) key += segments.packed(segments.list[begin]);
    }
    if (!more) std::fill_n(out_, M * amx::kRows * shape_.out_floats(), 0.0f);
  }

  // One softmax over the keys of segments [begin, end), the first of which stands at `key`, on top
  // of what stands in out if `more`. Does it add anything?
  template <int M>
  bool add_softmax(const Site& site, int64_t begin, int64_t end, int64_t key, bool more) {
    const FloatTag d;
    constexpr uint32_t kAll = M == 2 ? ~0u : 0xFFFFu;
    const bool shared = begin < site.segments->grouped;
    const RowFactors<M> own(site.segments->list[begin], site.place, shared);
    if (!shared && own.off == kAll) return false;
    const bool single = !shared && own.moderate && site.segments->list[begin].tokens <= kBlockKeys;

    FloatVec top[M], sum[M], fade[M], found[M];
    for (int m = 0; m < M; ++m) {
      top[m] = hn::Set(d, kNoKey);
      sum[m] = hn::Zero(d);
    }
    bool begun = false;  // stands something in part?
    for (int64_t i = begin; i < end; ++i) {
      const Segment& s = site.segments->list[i];
      const RowFactors<M> factors(s, site.place, shared);
      const bool whole = !shared || (s.weight == 1.0f && s.mask == nullptr);
      const int64_t length = block_length(s.tokens, kMatrixKeys);
      for (int64_t t = 0; t < s.tokens && factors.off != kAll; t += length) {
        const Keys keys{site.head.from(key + t, shape_), HWY_MIN(length, s.tokens - t)};
        weigh<M>(site, keys, shared ? factors.off : 0, top, fade, found);
        for (int m = 0; m < M; ++m) {
          if (!whole) {
            found[m] =
                hn::IfThenZeroElse(bits_of(factors.off, m), hn::Mul(found[m], factors.value[m]));
          }
          sum[m] = hn::MulAdd(sum[m], fade[m], found[m]);
        }
        if (single) {
          divide_by<M>(top, sum, own.value, more);
          scratch_.add_values<M>(keys.packed, keys.count, shape_, more, out_);
          return true;
        }
        add_block<M>(keys, whole ? nullptr : &factors, fade, begun);
        begun = true;
      }
      key += site.segments->packed(s);
    }
    if (!begun) std::fill_n(part_, M * amx::kRows * shape_.out_floats(), 0.0f);
    add_part<M>(top, sum, shared ? nullptr : &own, more);
    return true;
  }

  // The weights of a block's keys, and their sums; nothing of it counts where it is off. `fade`
  // takes what came before to the new maximum.
  template <int M>
  void weigh(const Site& site, const Keys& keys, uint32_t off, FloatVec* top, FloatVec* fade,
             FloatVec* found) {
    scratch_.find_scores<M>(queries_, keys.packed, keys.count, shape_);
    scratch_.raise<M>(keys.count, site.factor, off, top, fade);
    scratch_.make_weights<M>(keys.count, site.factor, top, found, [this]() HWY_ATTR {
      next_queries_.send_share();
      results_.send_share();
    });
  }

  // The results' divisors become those of a softmax with these factors, not a number where it had
  // no key; so does what stands there, if `more`.
  template <int M>
  void divide_by(const FloatVec* top, const FloatVec* sum, const FloatVec* factors, bool more) {
    const FloatTag d;
    HWY_ALIGN float ratios[kMatrixRows];
    for (int m = 0; m < M; ++m) {
      const auto none = hn::Eq(top[m], hn::Set(d, kNoKey));
      const FloatVec divisor = hn::IfThenElse(none, hn::NaN(d), hn::Div(sum[m], factors[m]));
      hn::Store(hn::Div(divisor, hn::Load(d, divisors_ + m * kLanes)), d, ratios + m * kLanes);
      hn::Store(divisor, d, divisors_ + m * kLanes);
    }
    if (more) multiply_rows<M>(ratios, shape_, out_);
  }

  // A block's products, on top of what came before it, faded, if it has begun. With factors they
  // are found apart: what is off adds nothing, whatever the values.
  template <int M>
  void add_block(const Keys& keys, const RowFactors<M>* factors, const FloatVec* fade, bool begun) {
    const FloatTag d;
    if (begun) fade_rows<M>(fade, shape_, part_);
    if (factors == nullptr) {
      scratch_.add_values<M>(keys.packed, keys.count, shape_, begun, part_);
      return;
    }
    scratch_.add_values<M>(keys.packed, keys.count, shape_, false, apart_);
    HWY_ALIGN float of_row[kMatrixRows];
    for (int m = 0; m < M; ++m) hn::Store(factors->value[m], d, of_row + m * kLanes);
    add_rows<M>(apart_, of_row, factors->off, begun, part_);
  }

  // Adds a softmax's part over its sums to the results; with factors, times those.
  template <int M>
  void add_part(const FloatVec* top, const FloatVec* sum, const RowFactors<M>* factors, bool more) {
    const FloatTag d;
    HWY_ALIGN float shares[kMatrixRows];
    for (int m = 0; m < M; ++m) {
      const auto none = hn::Eq(top[m], hn::Set(d, kNoKey));
      FloatVec share = hn::Div(hn::Load(d, divisors_ + m * kLanes), sum[m]);
      if (factors != nullptr) share = hn::Mul(share, factors->value[m]);
      hn::Store(hn::IfThenElse(none, hn::NaN(d), share), d, shares + m * kLanes);
    }
    add_rows<M>(part_, shares, factors != nullptr ? factors->off : 0, more, out_);
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
  float *out_, *part_, *apart_, *copy_;
  HWY_ALIGN float divisors_[kMatrixRows];  // of the results, row by row
  RowsAhead next_queries_, results_;
};

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_AMX_TARGET

#endif  // ATTNPATCH_BRANCH_AMX_INL_H_
