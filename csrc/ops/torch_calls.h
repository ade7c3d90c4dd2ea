// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The operators of torch that the stable ABI offers no function for, called through the dispatcher.
// They keep ATen's own names, arguments and meaning.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace attnpatch::ops {

using torch::stable::Tensor;

Tensor linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias);

// Over the last dimension, whose size is that of `weight`.
Tensor layer_norm(const Tensor& input, const Tensor& weight, const Tensor& bias, double epsilon);

// The exact form, with the error function.
Tensor gelu(const Tensor& input);

// (B, H, N, D) each; logits are scaled by D^-1/2.
Tensor scaled_dot_product_attention(const Tensor& query, const Tensor& key, const Tensor& value);

Tensor cat(const std::vector<Tensor>& tensors, int64_t dim);

Tensor expand(const Tensor& input, const std::vector<int64_t>& size);

}  // namespace attnpatch::ops
