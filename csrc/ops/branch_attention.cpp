// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/branch_attention.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>
#include <vector>

#include "ops/arguments.h"
#include "ops/backend.h"

namespace attnpatch {
namespace {

using torch::headeronly::ScalarType;

// The rows of k that serve the batch, each below their count.
void check_rows(const std::string& name, const Tensor& rows, const Tensor& q, int64_t count) {
  const int64_t batch = q.size(0);
  STD_TORCH_CHECK(rows.dim() == 1 && rows.size(0) == batch && rows.is_contiguous() &&
                      rows.scalar_type() == ScalarType::Long && is_beside(rows, q),
                  name, ": got ", shape_of(rows), ", expected contiguous int64 (", batch,
                  ") on the device of q, one row for each row of q");
  if constexpr (kOnCuda) return;  // reading them would wait for the device: the kernel looks
  const auto* data = static_cast<const int64_t*>(rows.const_data_ptr());
  for (int64_t b = 0; b < batch; ++b) {
    STD_TORCH_CHECK(data[b] < count, name, ": row ", data[b], " asked for, branch_k has ", count);
  }
}

struct BranchArguments {
  const std::vector<Tensor>& k;
  const std::vector<Tensor>& v;
  const std::vector<Tensor>& rows;
  const Tensor& weights;
  const std::optional<Tensor>& masks;
};

void check_branch_counts(const BranchArguments& a, const Tensor& q, int64_t joint) {
  const auto count = static_cast<int64_t>(a.k.size());
  const int64_t batch = q.size(0);
  STD_TORCH_CHECK(a.v.size() == a.k.size() && a.rows.size() == a.k.size(),
                  "branch_k, branch_v, branch_rows: got ", a.k.size(), ", ", a.v.size(), " and ",
                  a.rows.size(), " branches, expected the same count");
  STD_TORCH_CHECK(a.weights.dim() == 2 && a.weights.size(0) == count &&
                      a.weights.size(1) == batch && a.weights.is_contiguous() &&
                      a.weights.scalar_type() == ScalarType::Float && is_beside(a.weights, q),
                  "weights: got ", shape_of(a.weights), ", expected contiguous float32 (", count,
                  ", ", batch, ") on the device of q: branches, batch");
  STD_TORCH_CHECK(joint >= 0 && joint <= count, "joint: got ", joint, ", expected 0 to ", count);
  if (!a.masks) return;
  const Tensor& m = *a.masks;
  STD_TORCH_CHECK(m.dim() == 3 && m.size(0) == count && (m.size(1) == 1 || m.size(1) == batch) &&
                      m.size(2) == q.size(2) && m.is_contiguous() &&
                      m.scalar_type() == ScalarType::Float && is_beside(m, q),
                  "masks: got ", shape_of(m), ", expected contiguous float32 (", count, ", 1 or ",
                  batch, ", ", q.size(2), ") on the device of q: branches, batch, queries");
}

std::vector<AttentionBranch> branches_of(const BranchArguments& a, const Tensor& q) {
  const int64_t batch = q.size(0);
  std::vector<AttentionBranch> branches;
  for (size_t i = 0; i < a.k.size(); ++i) {
    const std::string number = "[" + std::to_string(i) + "]";
    check_keys("branch_k" + number, a.k[i], q);
    check_keys("branch_v" + number, a.v[i], q);
    check_pair("branch_k" + number, a.k[i], a.v[i]);
    check_rows("branch_rows" + number, a.rows[i], q, a.k[i].size(0));
    AttentionBranch branch{.k = view_of(a.k[i]),
                           .v = view_of(a.v[i]),
                           .row_count = a.k[i].size(0),
                           .tokens = a.k[i].size(2)};
    const auto index = static_cast<int64_t>(i);
    branch.rows = static_cast<const int64_t*>(a.rows[i].const_data_ptr());
    branch.weights = static_cast<const float*>(a.weights.const_data_ptr()) + index * batch;
    if (a.masks) {
      const int64_t masks = a.masks->size(1);
      branch.mask =
          static_cast<const float*>(a.masks->const_data_ptr()) + index * masks * q.size(2);
      branch.mask_batch_stride = masks == 1 ? 0 : q.size(2);
    }
    branches.push_back(branch);
  }
  return branches;
}

Tensor branch_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::vector<Tensor>& branch_k, const std::vector<Tensor>& branch_v,
                        const std::vector<Tensor>& branch_rows, const Tensor& weights,
                        const std::optional<Tensor>& masks, int64_t joint,
                        std::optional<double> scale) {
  STD_TORCH_CHECK(q.dim() == 4, "q: got ", shape_of(q),
                  ", expected (batch, heads, queries, head size)");
  check_device("q", q);
  const BranchArguments arguments{branch_k, branch_v, branch_rows, weights, masks};
  check_keys("k", k, q);
  check_keys("v", v, q);
  check_pair("k, v", k, v);
  STD_TORCH_CHECK(k.size(0) == q.size(0), "k: got ", shape_of(k), ", expected the batch of q, ",
                  shape_of(q));
  check_branch_counts(arguments, q, joint);
  STD_TORCH_CHECK(joint == 0 || k.size(2) > 0, "joint: got ", joint,
                  ", but there are no text tokens to share a softmax with");

  Tensor out = allocate_attention(q);
  BranchAttentionParams params;
  params.kind = kind_of("q", q);
  params.batch = q.size(0);
  params.heads = q.size(1);
  params.queries = q.size(2);
  params.head_size = q.size(3);
  params.text_tokens = k.size(2);
  params.scale = attention_scale(q, scale);
  params.q = view_of(q);
  params.k = view_of(k);
  params.v = view_of(v);
  params.out = view_of(out);
  params.branches = branches_of(arguments, q);
  params.joint = joint;
  params.threads = threads();
  params.parallel_for = parallel_for;
  if constexpr (kOnCuda) {
    const OnDevice device(q);
    branch_attention_cuda(params, device.stream());
  } else {
    branch_attention_cpu(params);
  }
  return out;
}

}  // namespace
}  // namespace attnpatch

#ifndef ATTNPATCH_OPS_ON_CUDA
STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "branch_attention(Tensor q, Tensor k, Tensor v, Tensor[] branch_k, Tensor[] branch_v, "
      "Tensor[] branch_rows, Tensor weights, Tensor? masks=None, int joint=0, float? scale=None) "
      "-> Tensor");
}
#endif

STABLE_TORCH_LIBRARY_IMPL(attnpatch, ATTNPATCH_DISPATCH_KEY, m) {
  m.impl("branch_attention", TORCH_BOX(&attnpatch::branch_attention));
}
