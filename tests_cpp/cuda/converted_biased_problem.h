// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Biased attention problems in the types of CUDA.

#pragma once

#include <vector>

#include "../kernels/biased_attention_problem.h"
#include "values.h"

namespace attnpatch::kernels {

// The tensors of a problem in another type and kind of memory, and parameters that refer to them.
// The problem's are rounded to it, so that the formula is of what the kernel saw.
template <typename T, typename Memory>
class ConvertedBiased {
 public:
  explicit ConvertedBiased(BiasedProblem& problem)
      : problem_(&problem),
        params_(problem.params()),
        q_(problem.q),
        k_(problem.k),
        v_(problem.v),
        out_(problem.out),
        u_(problem.u),
        w_(problem.w) {
    const auto round = [](std::vector<float>& values, Values<T, Memory>& rounded) {
      values.assign(rounded.floats(), rounded.floats() + values.size());
    };
    round(problem.q, q_);
    round(problem.k, k_);
    round(problem.v, v_);
    params_.dtype = dtype_of<T>();
    params_.q.data = q_.typed();
    params_.k.data = k_.typed();
    params_.v.data = v_.typed();
    params_.out.data = out_.typed();
    params_.query_bias.data = u_.typed();
    params_.key_bias.data = w_.typed();
  }

  BiasedAttentionParams& params() { return params_; }

  void finish() { problem_->out = out_.read(); }

 private:
  BiasedProblem* problem_;
  BiasedAttentionParams params_;
  Values<T, Memory> q_, k_, v_, out_;
  Values<float, Memory> u_, w_;
};

}  // namespace attnpatch::kernels
