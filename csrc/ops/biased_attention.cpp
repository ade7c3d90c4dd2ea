// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/biased_attention.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <optional>

#include "ops/arguments.h"
#include "ops/backend.h"

namespace attnpatch::ops {
namespace {

constexpr int64_t kMostTerms = 16;

// (1 or batch, tokens, terms): of any count up to the most, or of so many.
void check_bias(const char* name, const Tensor& bias, const First& q, int64_t tokens,
                std::optional<int64_t> terms) {
  const bool fits = bias.dim() == 3;
  const int64_t batch = fits && bias.size(0) == 1 ? 1 : q.tensor->size(0);
  const Size last =
      terms ? Size{*terms} : Size{fits ? std::min(bias.size(2), kMostTerms) : 0, "0 to 16"};
  check_tensor(name, bias, q, ScalarType::Float, {{batch, "1 or batch"}, {tokens}, last});
}

void check_biased_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                            const std::optional<Tensor>& query_bias,
                            const std::optional<Tensor>& key_bias, std::optional<double> scale,
                            bool wide) {
  const First first{"q", &q, wide};
  check_queries(first);
  check_keys("k", k, first, {-1, "tokens"});
  check_values("v", v, k, first);
  if (query_bias.has_value() != key_bias.has_value()) {
    fail("query_bias, key_bias: expected both or none, got one");
  }
  if (query_bias) {
    check_bias("query_bias", *query_bias, first, q.size(2), std::nullopt);
    check_bias("key_bias", *key_bias, first, k.size(2), query_bias->size(2));
  }
  check_scale(scale, first);
}

kernels::BiasView view_of_bias(const Tensor& bias) {
  return {static_cast<const float*>(bias.const_data_ptr()), bias.size(0) == 1 ? 0 : bias.stride(0),
          bias.stride(1), bias.stride(2)};
}

Tensor biased_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::optional<Tensor>& query_bias,
                        const std::optional<Tensor>& key_bias, std::optional<double> scale) {
  check_biased_attention(q, k, v, query_bias, key_bias, scale, false);
  kernels::BiasedAttentionParams params;
  if (query_bias) {
    params.terms = query_bias->size(2);
    params.query_bias = view_of_bias(*query_bias);
    params.key_bias = view_of_bias(*key_bias);
  }
  Tensor out = allocate_attention(q);
  fill(params, q, k, v, out, scale);
  if constexpr (kOnCuda) {
    const OnDevice device(q);
    kernels::biased_attention_cuda(params, device.stream());
  } else {
    kernels::biased_attention_cpu(params);
  }
  return out;
}

}  // namespace
}  // namespace attnpatch::ops

#ifndef ATTNPATCH_OPS_ON_CUDA
STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "biased_attention(Tensor q, Tensor k, Tensor v, Tensor? query_bias=None, Tensor? "
      "key_bias=None, float? scale=None) -> Tensor");
  m.def(
      "_check_biased_attention(Tensor q, Tensor k, Tensor v, Tensor? query_bias=None, Tensor? "
      "key_bias=None, float? scale=None, *, bool wide=False) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(attnpatch, CompositeExplicitAutograd, m) {
  m.impl("_check_biased_attention", TORCH_BOX(&attnpatch::ops::check_biased_attention));
}
#endif

STABLE_TORCH_LIBRARY_IMPL(attnpatch, ATTNPATCH_DISPATCH_KEY, m) {
  m.impl("biased_attention", TORCH_BOX(&attnpatch::ops::biased_attention));
}
