// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Branch attention problems in the types of CUDA.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "../kernels/branch_attention_problem.h"

namespace attnpatch::kernels {

// The tensors of a problem in another type and kind of memory, and parameters that refer to them.
template <typename T, typename Memory>
class Converted {
 public:
  Converted(Problem& problem, Dtype dtype) : problem_(&problem), params_(problem.params()) {
    params_.dtype = dtype;
    for (AttentionView* view : {&params_.q, &params_.k, &params_.v, &params_.out}) point(*view);
    out_ = copies_.size() - 1;
    for (size_t i = 0; i < params_.branches.size(); ++i) {
      AttentionBranch& branch = params_.branches[i];
      point(branch.k);
      point(branch.v);
      branch.rows = copy<int64_t>(problem.rows[i]);
      branch.weights = copy<float>(problem.weights[i]);
      if (branch.mask != nullptr) branch.mask = copy<float>(problem.masks[i]);
    }
  }

  BranchAttentionParams& params() { return params_; }

  void finish() {
    std::vector<T> out(problem_->out.size());
    copies_[out_].read(out.data(), out.size() * sizeof(T));
    for (size_t i = 0; i < out.size(); ++i) problem_->out[i] = static_cast<float>(out[i]);
  }

 private:
  void point(AttentionView& view) { view.data = copy<T>(source(view.data)); }

  template <typename To, typename From>
  To* copy(const std::vector<From>& from) {
    std::vector<To> to(from.size());
    std::transform(from.begin(), from.end(), to.begin(),
                   [](From value) { return static_cast<To>(value); });
    Memory& memory = copies_.emplace_back(to.size() * sizeof(To));
    memory.write(to.data(), to.size() * sizeof(To));
    return static_cast<To*>(memory.data());
  }

  const std::vector<float>& source(const void* data) const {
    for (const auto* values : {&problem_->q, &problem_->k, &problem_->v, &problem_->out}) {
      if (values->data() == data) return *values;
    }
    for (const auto* list : {&problem_->branch_k, &problem_->branch_v}) {
      for (const auto& values : *list) {
        if (values.data() == data) return values;
      }
    }
    throw std::logic_error("no tensor of the problem");
  }

  Problem* problem_;
  BranchAttentionParams params_;
  std::vector<Memory> copies_;
  size_t out_;
};

// What rounding to T changes in the inputs, so that the formula is of what the kernel saw.
template <typename T>
void round_inputs(Problem& problem) {
  const auto round = [](std::vector<float>& values) {
    for (float& value : values) value = static_cast<float>(static_cast<T>(value));
  };
  for (auto* values : {&problem.q, &problem.k, &problem.v}) round(*values);
  for (auto* list : {&problem.branch_k, &problem.branch_v}) {
    for (auto& values : *list) round(values);
  }
}

}  // namespace attnpatch::kernels
