// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What every attention kernel is told.

#pragma once

#include <cstdint>

#include "kernels/parallel.h"
#include "kernels/views.h"

namespace attnpatch::kernels {

struct AttentionParams : Threads {
  Dtype dtype = Dtype::kFloat32;  // of all tensors
  int64_t batch = 0, queries = 0, keys = 0, head_size = 0;
  // Of q and out; of k and v. The first is a multiple of the second: so many neighbouring heads of
  // q have one head of k and v in common.
  int64_t heads = 0, kv_heads = 0;
  float scale = 1.0f;  // of the scores

  AttentionView q, k, v;
  AttentionView out;  // written

  // How many heads of q share one of k and v.
  int64_t group() const { return heads / kv_heads; }

  // The head of k and v that serves a head of q.
  int64_t kv_head(int64_t head) const { return head / group(); }
};

}  // namespace attnpatch::kernels
