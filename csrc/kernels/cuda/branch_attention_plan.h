// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// With what grid and shared memory a CUDA kernel serves a branch attention.

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
constexpr int kFewKeys = 16;  // of one picture: a block of its own size costs a fifth

// Keys whose scores are in registers: the text has 77. Larger heads have no registers for so many.
template <int kSize>
constexpr int kBlockKeys = kSize <= 80    ? 80
                           : kSize <= 128 ? 48
                                          : 32;

// What the kernels are given.
struct BranchAttentionArguments : AttentionArguments {
  int branch_count, shared_softmax;
  AttentionBranch branches[kMostBranches];
  int tiles_per_block;  // tiles of queries that a block of threads goes through
  int stages;           // tiles of queries in shared memory: the next one beside that in use
  int resident_rows;    // rows of keys in shared memory; 0: two blocks of keys, loaded when needed
};

struct BranchAttentionPlan {
  BranchAttentionArguments arguments;
  int64_t grid = 0;  // of query tiles; the others are heads and batch
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

// Rows of shared memory that keys or values take where all stay there.
inline int64_t resident_rows_of(const BranchAttentionParams& params) {
  int64_t rows = (params.keys + 15) / 16 * 16;
  for (const AttentionBranch& branch : params.branches) rows += (branch.tokens + 15) / 16 * 16;
  return rows;
}

// `blocks_for`: how many blocks of threads with so many bytes of shared memory a multiprocessor
// takes.
template <typename BlocksFor>
BranchAttentionPlan plan_branch_attention(const BranchAttentionParams& params,
                                          const DeviceLimits& limits, const BlocksFor& blocks_for) {
  BranchAttentionPlan plan;
  BranchAttentionArguments& a = plan.arguments = arguments_of(params);
  int size = 0, block_rows = 0;
  with_size(params.head_size, [&](auto constant) {
    size = constant();
    block_rows = 2 * kBlockKeys<constant()>;
  });
  const int64_t resident = resident_rows_of(params);
  const auto bytes = [&](int64_t rows, int stages) {
    return (2 * rows + stages * kTileQueries) * 2 * static_cast<size_t>(size + kPad);
  };
  // Two blocks of threads hide each other's waiting.
  const size_t half = std::min(limits.shared_bytes, limits.shared_bytes_of_all / 2);
  const auto choose = [&](int64_t rows) {
    a.stages = bytes(rows, 2) <= half ? 2 : 1;
    plan.shared_bytes = bytes(rows, a.stages);
    return plan.shared_bytes <= half;
  };
  a.resident_rows = choose(resident) ? static_cast<int>(resident) : 0;
  if (a.resident_rows == 0) choose(block_rows);
  // Keys and values cost about as much to load as a tile of queries: blocks that go through several
  // tiles load them once. So many blocks as run at a time, unless each had very much to do.
  const int64_t tiles = (params.queries + kTileQueries - 1) / kTileQueries;
  const int64_t all = tiles * params.heads * params.batch;
  const int64_t at_once =
      int64_t{std::max(1, blocks_for(plan.shared_bytes))} * limits.multiprocessors;
  a.tiles_per_block = static_cast<int>(
      std::clamp<int64_t>((all + at_once - 1) / at_once, 1, std::min<int64_t>(8, tiles)));
  if (a.tiles_per_block == 1 && a.stages == 2) {
    a.stages = 1;
    plan.shared_bytes = bytes(a.resident_rows > 0 ? resident : block_rows, 1);
  }
  plan.grid = (tiles + a.tiles_per_block - 1) / a.tiles_per_block;
  return plan;
}

}  // namespace attnpatch::kernels::device
