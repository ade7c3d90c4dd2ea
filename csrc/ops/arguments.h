// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the operators share in reading their arguments, and in calling a kernel.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "kernels/views.h"

namespace attnpatch {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// An error in an argument, RuntimeError in Python: "argument: expected ..., got ...". The parts are
// written one after another; only a call that fails makes them.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// A size that a tensor should have, -1 for any; in messages the word stands for it, if there is
// one.
struct Size {
  int64_t size;
  const char* word = nullptr;
};

// The tensor beside which others have to be. No kernel computes in float64: `wide` is for what may.
struct First {
  const char* name;
  const Tensor& tensor;
  bool wide = false;
  torch::stable::Device device = tensor.device();
};

// float32, float16 or bfloat16, or float64 where it is wide; of these sizes.
void check_first(const First& first, std::initializer_list<Size> sizes);

// Another tensor: of a dtype and sizes, on the device of the first.
void check_tensor(const std::string& name, const Tensor& t, const First& first, ScalarType dtype,
                  std::initializer_list<Size> sizes);

// Queries (batch, heads, queries, head size), and keys that they attend to.
void check_queries(const First& q, Size queries = {-1, "queries"});
void check_keys(const std::string& name, const Tensor& k, const First& q, Size rows, Size tokens);

// Values: as many as keys that were checked.
void check_values(const std::string& name, const Tensor& v, const Tensor& k, const First& q);

// The dtype of a checked first tensor.
Dtype dtype_of(const Tensor& t);

// Of a tensor (batch, heads, tokens, head size).
AttentionView view_of(const Tensor& t);

// A factor on the scores: a finite number of float32, or of float64 where q is wide.
void check_scale(std::optional<double> scale, const First& q);

// The same: 1 / sqrt(head size) by default.
float attention_scale(int64_t head_size, std::optional<double> scale);

// (batch, heads, queries, head size) whose memory is (batch, queries, heads, head size).
Tensor allocate_attention(const Tensor& q);

// torch's threads: how many, and as a ParallelFor.
int64_t threads();
void parallel_for(int64_t count, const std::function<void(int64_t, int64_t)>& body);

}  // namespace attnpatch
