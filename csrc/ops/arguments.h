// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What the operators share in reading their arguments, and in calling a kernel.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "kernels/attention_params.h"
#include "kernels/parallel.h"
#include "kernels/views.h"

namespace attnpatch::ops {

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
  const Tensor* tensor;
  bool wide = false;
  torch::stable::Device device = tensor->device();
};

// float32, float16 or bfloat16, or float64 where it is wide; of these sizes.
void check_first(const First& first, std::initializer_list<Size> sizes);

// Another tensor: of a dtype and sizes, on the device of the first.
void check_tensor(const std::string& name, const Tensor& t, const First& first, ScalarType dtype,
                  std::initializer_list<Size> sizes);

// Queries (batch, heads, queries, head size).
void check_queries(const First& q, Size queries = {-1, "queries"});

// The first keys that they attend to: of as many heads, or of fewer that each serve equally many.
void check_keys(const std::string& name, const Tensor& k, const First& q, Size tokens);

// Other keys, with the heads of the first.
void check_other_keys(const std::string& name, const Tensor& other, const Tensor& k, const First& q,
                      Size rows);

// Values: as many as keys that were checked.
void check_values(const std::string& name, const Tensor& v, const Tensor& k, const First& q);

// The dtype of a checked first tensor.
kernels::Dtype dtype_of(const Tensor& t);

// Of a tensor (batch, heads, tokens, head size).
kernels::AttentionView view_of(const Tensor& t);

// A factor on the scores: a finite number of float32, or of float64 where q is wide.
void check_scale(std::optional<double> scale, const First& q);

// (batch, heads, queries, head size) whose memory is (batch, queries, heads, head size).
Tensor allocate_attention(const Tensor& q);

// Torch's threads, for a kernel.
void use_threads(kernels::Threads& threads);

// How heads stand in the tensors of an attention, and where their tokens.
struct AttentionShape {
  int64_t batch = 0, heads = 0, kv_heads = 0, queries = 0, keys = 0, head_size = 0;
};

// What all attention kernels are told but for the views of the tensors; q says the dtype.
void fill(kernels::AttentionParams& params, const AttentionShape& shape, const Tensor& q,
          std::optional<double> scale);

// The same and the views, of tensors (batch, heads, tokens, head size) that were checked.
void fill(kernels::AttentionParams& params, const Tensor& q, const Tensor& k, const Tensor& v,
          const Tensor& out, std::optional<double> scale);

}  // namespace attnpatch::ops
