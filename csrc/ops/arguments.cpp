// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "ops/arguments.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>

namespace attnpatch::ops {
namespace {

// As torch calls it in Python.
std::string name_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Bool:
      return "bool";
    default:
      return torch::headeronly::toString(dtype);
  }
}

// "float32 (2, 3)".
std::string text_of(const Tensor& t) {
  std::string text = name_of(t.scalar_type()) + " (";
  for (int64_t i = 0; i < t.dim(); ++i)
    text.append(i ? ", " : "").append(std::to_string(t.size(i)));
  return text + ")";
}

std::string text_of(std::initializer_list<Size> sizes) {
  std::string text;
  for (const Size& s : sizes) {
    text += text.empty() ? "(" : ", ";
    text += s.word ? s.word : std::to_string(s.size);
  }
  return text + ")";
}

bool has_sizes(const Tensor& t, std::initializer_list<Size> sizes) {
  if (t.dim() != static_cast<int64_t>(sizes.size())) return false;
  int64_t i = 0;
  for (const Size& s : sizes) {
    const int64_t size = t.size(i++);
    if (s.size >= 0 && size != s.size) return false;
  }
  return true;
}

}  // namespace

void check_first(const First& first, std::initializer_list<Size> sizes) {
  const ScalarType dtype = first.tensor->scalar_type();
  const bool known = dtype == ScalarType::Float || dtype == ScalarType::Half ||
                     dtype == ScalarType::BFloat16 || (first.wide && dtype == ScalarType::Double);
  if (known && has_sizes(*first.tensor, sizes)) return;
  fail(first.name, ": expected float32, float16 or bfloat16 ", text_of(sizes), ", got ",
       text_of(*first.tensor));
}

void check_tensor(const std::string& name, const Tensor& t, const First& first, ScalarType dtype,
                  std::initializer_list<Size> sizes) {
  const bool beside = t.device() == first.device;
  if (beside && t.scalar_type() == dtype && has_sizes(t, sizes)) return;
  fail(name, ": expected ", name_of(dtype), " ", text_of(sizes), " on the device of ", first.name,
       ", got ", text_of(t), beside ? "" : " on another device");
}

void check_queries(const First& q, Size queries) {
  check_first(q, {{-1, "batch"}, {-1, "heads"}, queries, {-1, "head size"}});
}

void check_keys(const std::string& name, const Tensor& k, const First& q, Size tokens) {
  const Tensor& t = *q.tensor;
  const int64_t heads = t.size(1), kv_heads = k.dim() == 4 ? k.size(1) : 0;
  const bool grouped = kv_heads > 0 && heads > 0 && heads % kv_heads == 0;
  const std::string word = std::to_string(heads) + " or a divisor";
  check_tensor(name, k, q, t.scalar_type(),
               {{t.size(0)}, {grouped ? kv_heads : heads, word.c_str()}, tokens, {t.size(3)}});
}

void check_other_keys(const std::string& name, const Tensor& other, const Tensor& k, const First& q,
                      Size rows) {
  check_tensor(name, other, q, k.scalar_type(), {rows, {k.size(1)}, {-1, "tokens"}, {k.size(3)}});
}

void check_values(const std::string& name, const Tensor& v, const Tensor& k, const First& q) {
  check_tensor(name, v, q, k.scalar_type(), {{k.size(0)}, {k.size(1)}, {k.size(2)}, {k.size(3)}});
}

void check_scale(std::optional<double> scale, const First& q) {
  if (!scale) return;
  const bool is_double = q.tensor->scalar_type() == ScalarType::Double;
  const double largest =
      is_double ? std::numeric_limits<double>::max() : double{std::numeric_limits<float>::max()};
  if (std::abs(*scale) <= largest) return;
  fail("scale: expected a finite number of ", is_double ? "float64" : "float32", ", got ", *scale);
}

kernels::Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Half:
      return kernels::Dtype::kFloat16;
    case ScalarType::BFloat16:
      return kernels::Dtype::kBFloat16;
    default:
      return kernels::Dtype::kFloat32;
  }
}

kernels::AttentionView view_of(const Tensor& t) {
  return {t.const_data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

Tensor allocate_attention(const Tensor& q) {
  Tensor memory = torch::stable::empty({q.size(0), q.size(2), q.size(1), q.size(3)},
                                       q.scalar_type(), std::nullopt, q.device());
  return torch::stable::transpose(memory, 1, 2);
}

void use_threads(kernels::Threads& threads) {
  threads.threads = torch::stable::get_num_threads();
  threads.parallel_for = [](int64_t count, const std::function<void(int64_t, int64_t)>& body) {
    torch::stable::parallel_for(0, count, 1, body);
  };
}

void fill(kernels::AttentionParams& params, const AttentionShape& shape, const Tensor& q,
          std::optional<double> scale) {
  params.dtype = dtype_of(q);
  params.batch = shape.batch;
  params.heads = shape.heads;
  params.kv_heads = shape.kv_heads;
  params.queries = shape.queries;
  params.keys = shape.keys;
  params.head_size = shape.head_size;
  const auto size = static_cast<double>(std::max<int64_t>(shape.head_size, 1));
  params.scale = static_cast<float>(scale.value_or(1.0 / std::sqrt(size)));
  use_threads(params);
}

void fill(kernels::AttentionParams& params, const Tensor& q, const Tensor& k, const Tensor& v,
          const Tensor& out, std::optional<double> scale) {
  const AttentionShape shape{.batch = q.size(0),
                             .heads = q.size(1),
                             .kv_heads = k.size(1),
                             .queries = q.size(2),
                             .keys = k.size(2),
                             .head_size = q.size(3)};
  fill(params, shape, q, scale);
  params.q = view_of(q);
  params.k = view_of(k);
  params.v = view_of(v);
  params.out = view_of(out);
}

}  // namespace attnpatch::ops
