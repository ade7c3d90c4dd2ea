// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What weights and masks of image prompts make of a vector of queries, and their softmaxes.
// Included once per instruction set.

#if defined(ATTNPATCH_BRANCH_FACTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_BRANCH_FACTORS_INL_H_
#undef ATTNPATCH_BRANCH_FACTORS_INL_H_
#else
#define ATTNPATCH_BRANCH_FACTORS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/packed_keys-inl.h"
#include "kernels/cpu/scores-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Where a tile's queries stand: the first one, and how many there are in all.
struct Place {
  int64_t query, queries;
};

// The mask's value of vector v of the tile's queries; 1 without a mask, 0 past the last query.
HWY_INLINE FloatVec load_mask(const float* mask, const Place& place, int64_t v) {
  const FloatTag d;
  if (mask == nullptr) return hn::Set(d, 1.0f);
  const int64_t query = place.query + v * kLanes;
  const int64_t left = HWY_MAX(place.queries - query, int64_t{0});
  if (left >= kLanes) return hn::LoadU(d, mask + query);
  HWY_ALIGN float part[kLanes] = {};
  std::memcpy(part, mask + query, sizeof(float) * static_cast<size_t>(left));
  return hn::Load(d, part);
}

// Weight times mask, for vector v of the tile's queries: 0 where the mask is, whatever the weight.
HWY_INLINE FloatVec factor_of(const Segment& s, const Place& place, int64_t v) {
  const FloatTag d;
  const FloatVec weight = hn::Set(d, s.weight);
  if (s.mask == nullptr) return weight;
  const FloatVec mask = load_mask(s.mask, place, v);
  return hn::IfThenZeroElse(hn::Eq(mask, hn::Zero(d)), hn::Mul(weight, mask));
}

// A factor as the share of a softmax: not a number below 0.
HWY_INLINE FloatVec share_of(FloatVec factor) {
  const FloatTag d;
  return hn::IfThenElse(hn::Lt(factor, hn::Zero(d)), hn::NaN(d), factor);
}

// What a segment's weight and mask make of a tile's queries.
template <int V>
struct Factors {
  FloatVec value[V];
  hn::Mask<FloatTag> off[V];  // nothing of the segment is to arrive

  Factors(const Segment& s, const Place& place, bool shared) {
    const FloatTag d;
    for (int v = 0; v < V; ++v) {
      value[v] = factor_of(s, place, v);
      off[v] = hn::Eq(value[v], hn::Zero(d));
      if (shared) value[v] = share_of(value[v]);
    }
  }
};

// A softmax on its way through its keys, for V vectors of queries.
template <int V>
struct Softmax {
  FloatVec top[V], sum[V];  // running maximum of the scores, sum of the weights
  FloatVec fade[V];         // takes what came before the last block to the new maximum

  Softmax() {
    const FloatTag d;
    for (int v = 0; v < V; ++v) {
      top[v] = hn::Set(d, kNoKey);
      sum[v] = hn::Zero(d);
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_BRANCH_FACTORS_INL_H_
