// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The branches of one attention layer in calls of one layout and time, which operators name by a
// number: a call then hands over three tensors, and what never changes is read and checked once.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace attnpatch::ops {

struct Branches {
  std::vector<torch::stable::Tensor> k, v;     // (rows, tokens, channels)
  std::vector<torch::stable::Tensor> rows;     // int64 (batch)
  torch::stable::Tensor weights;               // float32 (branches, batch)
  std::optional<torch::stable::Tensor> masks;  // float32 (branches, 1 or batch, queries)
  int64_t shared_softmax = 0;                  // how many, from the first, share the text's softmax
};

// Keeps branches where operators find them, for as long as it lives.
class BranchSet {
 public:
  // Throws where the tensors do not fit each other, naming the first that does not.
  BranchSet(std::vector<torch::stable::Tensor> k, std::vector<torch::stable::Tensor> v,
            std::vector<torch::stable::Tensor> rows, torch::stable::Tensor weights,
            std::optional<torch::stable::Tensor> masks, int64_t shared_softmax);
  ~BranchSet();
  BranchSet(const BranchSet&) = delete;
  BranchSet& operator=(const BranchSet&) = delete;

  int64_t handle() const { return handle_; }

 private:
  int64_t handle_;
};

// The branches of a set that lives; throws where there is none of this number.
std::shared_ptr<const Branches> branches_of(int64_t handle);

}  // namespace attnpatch::ops
