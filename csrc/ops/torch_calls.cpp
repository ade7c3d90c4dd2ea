// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "ops/torch_calls.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/torch_errors.h"

namespace attnpatch::ops {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

template <class... Arguments>
Tensor call(const char* name, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{from(arguments)...};
  ATTNPATCH_CHECK_TORCH(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

}  // namespace

Tensor linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  return call("aten::linear", input, weight, bias);
}

Tensor layer_norm(const Tensor& input, const Tensor& weight, const Tensor& bias, double epsilon) {
  const std::vector<int64_t> shape{weight.size(0)};
  return call("aten::layer_norm", input, shape, std::optional<Tensor>(weight),
              std::optional<Tensor>(bias), epsilon, true);
}

Tensor gelu(const Tensor& input) { return call("aten::gelu", input, std::string("none")); }

Tensor scaled_dot_product_attention(const Tensor& query, const Tensor& key, const Tensor& value) {
  return call("aten::scaled_dot_product_attention", query, key, value,
              std::optional<Tensor>(std::nullopt), 0.0, false, std::optional<double>(std::nullopt),
              false);
}

Tensor cat(const std::vector<Tensor>& tensors, int64_t dim) {
  return call("aten::cat", tensors, dim);
}

Tensor expand(const Tensor& input, const std::vector<int64_t>& size) {
  return call("aten::expand", input, size, false);
}

}  // namespace attnpatch::ops
