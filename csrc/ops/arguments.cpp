// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "ops/arguments.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>

#include "ops/backend.h"

namespace attnpatch {

using torch::headeronly::ScalarType;

void check_device(const std::string& name, const Tensor& t) {
  STD_TORCH_CHECK(kOnCuda ? t.is_cuda() : t.is_cpu(), name, ": expected on ",
                  kOnCuda ? "a CUDA device" : "the CPU", ", as others are");
}

bool is_beside(const Tensor& t, const Tensor& first) { return t.device() == first.device(); }

std::string shape_of(const Tensor& t) {
  std::string text = "(";
  for (int64_t i = 0; i < t.dim(); ++i) text += (i ? ", " : "") + std::to_string(t.size(i));
  return text + ")";
}

ScalarKind kind_of(const std::string& name, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return ScalarKind::kFloat32;
    case ScalarType::Half:
      return ScalarKind::kFloat16;
    case ScalarType::BFloat16:
      return ScalarKind::kBFloat16;
    default:
      STD_TORCH_CHECK(false, name, ": expected float32, float16 or bfloat16");
  }
}

AttentionView view_of(const Tensor& t) {
  return {t.const_data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

void check_keys(const std::string& name, const Tensor& t, const Tensor& q) {
  STD_TORCH_CHECK(t.dim() == 4 && t.size(1) == q.size(1) && t.size(3) == q.size(3), name, ": got ",
                  shape_of(t),
                  ", expected (rows, heads, tokens, head size) with the heads and head",
                  " size of q ", shape_of(q));
  STD_TORCH_CHECK(t.scalar_type() == q.scalar_type(), name, ": its dtype differs from that of q");
  STD_TORCH_CHECK(is_beside(t, q), name, ": expected on the device of q");
}

void check_pair(const std::string& name, const Tensor& k, const Tensor& v) {
  STD_TORCH_CHECK(k.size(0) == v.size(0) && k.size(2) == v.size(2), name,
                  ": keys and values differ, ", shape_of(k), " and ", shape_of(v));
}

float attention_scale(const Tensor& q, std::optional<double> scale) {
  const auto size = static_cast<double>(std::max<int64_t>(q.size(3), 1));
  return static_cast<float>(scale.value_or(1.0 / std::sqrt(size)));
}

Tensor allocate_attention(const Tensor& q) {
  Tensor memory = torch::stable::empty({q.size(0), q.size(2), q.size(1), q.size(3)},
                                       q.scalar_type(), std::nullopt, q.device());
  return torch::stable::transpose(memory, 1, 2);
}

int64_t threads() { return torch::stable::get_num_threads(); }

void parallel_for(int64_t count, const std::function<void(int64_t, int64_t)>& body) {
  torch::stable::parallel_for(0, count, 1, body);
}

}  // namespace attnpatch
