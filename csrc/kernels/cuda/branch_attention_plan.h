// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Which CUDA kernel serves a branch attention, and with what grid and shared memory.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "kernels/branch_attention.h"
#include "kernels/cuda/attention_arguments.h"
#include "kernels/cuda/limits.h"

namespace attnpatch::kernels::device {

constexpr int kMostBranches = 16;
constexpr int kFewKeys = 16;    // of one picture: a block of its own size costs a fifth
constexpr int kBlockKeys = 80;  // of one group whose scores are in registers: the text has 77

// What the kernels are given.
struct BranchAttentionArguments : AttentionArguments {
  int branch_count, shared_softmax;
  AttentionBranch branches[kMostBranches];
  int tiles_per_block;  // tiles of queries that a block of threads goes through
  int resident_rows;    // rows of keys in shared memory; 0: they do not fit, load when needed
};

struct BranchAttentionPlan {
  BranchAttentionArguments arguments;
  bool tensor_cores = false;  // else the kernel for any type
  int64_t grid = 0;           // of query tiles; the others are heads and batch
  size_t shared_bytes = 0;
};

inline BranchAttentionArguments arguments_of(const BranchAttentionParams& params) {
  if (params.branches.size() > kMostBranches) {
    throw std::invalid_argument("branch_attention on CUDA: got " +
                                std::to_string(params.branches.size()) +
                                " branches, expected at most " + std::to_string(kMostBranches));
  }
  BranchAttentionArguments a{};
  fill(a, params, "branch_attention");
  a.branch_count = static_cast<int>(params.branches.size());
  a.shared_softmax = static_cast<int>(params.shared_softmax);
  for (int i = 0; i < a.branch_count; ++i) {
    a.branches[i] = params.branches[i];
    if (a.branches[i].row_count == 0) a.branches[i].tokens = 0;
    a.vectorized =
        a.vectorized && rows_are_aligned(a.branches[i].k) && rows_are_aligned(a.branches[i].v);
  }
  return a;
}

// `shared_limit`: bytes that a block of threads may have; `multiprocessors`: of the device.
inline BranchAttentionPlan plan_branch_attention(const BranchAttentionParams& params,
                                                 size_t shared_limit, int multiprocessors) {
  BranchAttentionPlan plan;
  plan.arguments = arguments_of(params);
  if (params.dtype == Dtype::kFloat32) {
    plan.grid = (params.queries + kAnyQueries - 1) / kAnyQueries;
    plan.shared_bytes = any_shared_bytes(params.head_size);
    return plan;
  }
  plan.tensor_cores = true;
  int size = 0;
  with_size(params.head_size, [&](auto constant) { size = constant(); });
  int64_t rows = (params.keys + 15) / 16 * 16;
  for (const AttentionBranch& branch : params.branches) rows += (branch.tokens + 15) / 16 * 16;
  const size_t row_bytes = 2 * static_cast<size_t>(size + kPad);
  const auto bytes = [&](int64_t keys) { return (2 * keys + kTileQueries) * row_bytes; };
  const bool fits = bytes(rows) <= shared_limit;
  plan.arguments.resident_rows = fits ? static_cast<int>(rows) : 0;
  plan.shared_bytes = bytes(fits ? rows : kBlockKeys);
  // Keys and values cost about as much to load as a tile of queries: blocks that go through several
  // tiles load them once, as long as every multiprocessor has a few blocks.
  const int64_t tiles = (params.queries + kTileQueries - 1) / kTileQueries;
  const int64_t blocks = std::max<int64_t>(1, tiles * params.heads * params.batch);
  const int64_t per_block = fits ? blocks / (4 * int64_t{multiprocessors}) : 1;
  plan.arguments.tiles_per_block =
      static_cast<int>(std::clamp<int64_t>(per_block, 1, std::min<int64_t>(8, tiles)));
  plan.grid = (tiles + plan.arguments.tiles_per_block - 1) / plan.arguments.tiles_per_block;
  return plan;
}

}  // namespace attnpatch::kernels::device
