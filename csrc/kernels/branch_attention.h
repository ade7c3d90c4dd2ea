// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Text attention plus weighted, masked image branches in one pass over the queries:
//
//   out[b,h,n] = softmax_T(s q·k) v  +  sum_i w[i,b] m[i,b,n] softmax_Mi(s q·k_i) v_i
//
// with row r = rows_i[b] of k_i and v_i. The first `shared_softmax` branches share the text's
// softmax instead: their exponentials, times w·m, enter its numerator and its sum. Where w = 0, m =
// 0 or r < 0 nothing of the branch arrives, whatever stands in its tensors: not as the largest
// score of a shared softmax either, nor as a NaN. In a shared softmax a w·m below 0 is none: it
// makes its queries' results NaNs. No text tokens: the text's term is zero.

#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention_params.h"

namespace attnpatch::kernels {

struct AttentionBranch {
  AttentionView k, v;
  int64_t row_count = 0, tokens = 0;  // of k and v
  const int64_t* rows = nullptr;   // (batch): the row of k and v that serves a batch row; < 0: none
  const float* weights = nullptr;  // (batch)
  const float* mask = nullptr;     // (1 or batch, queries), or none
  int64_t mask_batch_stride = 0;   // 0 where one mask serves the whole batch
};

// The text's keys and values are k and v; each branch has as many heads as they.
struct BranchAttentionParams : AttentionParams {
  std::vector<AttentionBranch> branches;
  int64_t shared_softmax = 0;
};

void branch_attention_cpu(const BranchAttentionParams& params);

// The same where all data lies on the current CUDA device; `stream` is a cudaStream_t. Returns
// before the work is done. Throws where a launch fails, and for more than 16 branches, a head size
// over 160, float32 or grouped heads. A row that k and v do not have makes its result not a number.
void branch_attention_cuda(const BranchAttentionParams& params, void* stream);

}  // namespace attnpatch::kernels
