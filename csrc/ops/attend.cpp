// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Attention of a layer to its text and to the branches that a BranchSet keeps, as hosts have the
// tensors: (batch, tokens, channels), heads side by side in the channels. The arithmetic is that of
// branch_attention; no views are made on the way.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "kernels/branch_attention.h"
#include "ops/arguments.h"
#include "ops/branch_set.h"

namespace attnpatch::ops {
namespace {

using torch::stable::Tensor;

// A tensor (rows, tokens, channels) with its heads apart, as many as there are.
kernels::AttentionView heads_of(const Tensor& t, int64_t size) {
  return {t.const_data_ptr(), t.stride(0), size * t.stride(2), t.stride(1), t.stride(2)};
}

void check(const Tensor& q, const Tensor& k, const Tensor& v, const Branches& branches,
           int64_t heads, std::optional<double> scale) {
  const First first{"q", &q};
  const ScalarType dtype = q.scalar_type();
  check_first(first, {{-1, "batch"}, {-1, "queries"}, {-1, "channels"}});
  const int64_t batch = q.size(0), channels = q.size(2);
  if (heads < 1 || channels % heads != 0) {
    fail("heads: expected a divisor of the ", channels, " channels, got ", heads);
  }
  const int64_t size = channels / heads, kv_channels = k.dim() == 3 ? k.size(2) : 0;
  // Whole heads, each of which serves equally many of q's.
  const bool grouped =
      size > 0 && kv_channels > 0 && kv_channels % size == 0 && channels % kv_channels == 0;
  check_tensor("k", k, first, dtype, {{batch}, {-1, "tokens"}, {grouped ? kv_channels : channels}});
  check_tensor("v", v, first, dtype, {{batch}, {k.size(1)}, {k.size(2)}});
  check_tensor("branches: k", branches.k[0], first, dtype,
               {{-1, "rows"}, {-1, "tokens"}, {k.size(2)}});
  check_tensor("branches: rows", branches.rows[0], first, ScalarType::Long, {{batch}});
  if (branches.masks && branches.masks->size(2) != q.size(1)) {
    fail("branches: expected masks of ", q.size(1), " queries, got ", branches.masks->size(2));
  }
  if (branches.shared_softmax > 0 && k.size(1) == 0) {
    fail("branches: expected text tokens to share a softmax with, got none");
  }
  check_scale(scale, first);
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, int64_t handle, int64_t heads,
              std::optional<double> scale) {
  const std::shared_ptr<const Branches> branches = branches_of(handle);
  check(q, k, v, *branches, heads, scale);
  const int64_t batch = q.size(0), queries = q.size(1), size = q.size(2) / heads;
  Tensor out =
      torch::stable::empty({batch, queries, q.size(2)}, q.scalar_type(), std::nullopt, q.device());
  kernels::BranchAttentionParams params;
  fill(params,
       {.batch = batch,
        .heads = heads,
        .kv_heads = size > 0 ? k.size(2) / size : heads,
        .queries = queries,
        .keys = k.size(1),
        .head_size = size},
       q, scale);
  params.q = heads_of(q, size);
  params.k = heads_of(k, size);
  params.v = heads_of(v, size);
  params.out = heads_of(out, size);
  params.shared_softmax = branches->shared_softmax;
  const auto* weights = static_cast<const float*>(branches->weights.const_data_ptr());
  const int64_t masks = branches->masks ? branches->masks->size(1) : 0;
  for (size_t i = 0; i < branches->k.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    kernels::AttentionBranch branch{.k = heads_of(branches->k[i], size),
                                    .v = heads_of(branches->v[i], size),
                                    .row_count = branches->k[i].size(0),
                                    .tokens = branches->k[i].size(1)};
    branch.rows = static_cast<const int64_t*>(branches->rows[i].const_data_ptr());
    branch.weights = weights + index * batch;
    if (branches->masks) {
      branch.mask =
          static_cast<const float*>(branches->masks->const_data_ptr()) + index * masks * queries;
      branch.mask_batch_stride = masks == 1 ? 0 : queries;
    }
    params.branches.push_back(branch);
  }
  kernels::branch_attention_cpu(params);
  return out;
}

}  // namespace
}  // namespace attnpatch::ops

STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "attend(Tensor q, Tensor k, Tensor v, int branches, int heads, float? scale=None) -> "
      "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(attnpatch, CPU, m) {
  m.impl("attend", TORCH_BOX(&attnpatch::ops::attend));
}
