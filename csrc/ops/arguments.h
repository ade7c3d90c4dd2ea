// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the operators share in reading their arguments, and in calling a kernel.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "kernels/views.h"

namespace attnpatch {

using torch::stable::Tensor;

// "(2, 3)", for messages.
std::string shape_of(const Tensor& t);

// Its dtype; an error names the argument.
ScalarKind kind_of(const std::string& name, const Tensor& t);

// Of a tensor (batch, heads, tokens, head size).
AttentionView view_of(const Tensor& t);

// One of the tensors (rows, heads, tokens, head size) that q attends to.
void check_keys(const std::string& name, const Tensor& t, const Tensor& q);

void check_pair(const std::string& name, const Tensor& k, const Tensor& v);

// The factor on the scores: 1 / sqrt(head size) by default.
float attention_scale(const Tensor& q, std::optional<double> scale);

// (batch, heads, queries, head size) whose memory is (batch, queries, heads, head size).
Tensor allocate_attention(const Tensor& q);

// torch's threads: how many, and as a ParallelFor.
int64_t threads();
void parallel_for(int64_t count, const std::function<void(int64_t, int64_t)>& body);

}  // namespace attnpatch
