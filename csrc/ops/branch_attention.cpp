// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/branch_attention.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ops/arguments.h"
#include "ops/backend.h"

namespace attnpatch {
namespace {

struct BranchArguments {
  std::span<const Tensor> k, v, rows;
  const Tensor* weights;
  const Tensor* masks;  // or none

  int64_t count() const { return static_cast<int64_t>(k.size()); }
};

void check_branches(const BranchArguments& a, const Tensor& k, const First& q,
                    int64_t shared_softmax) {
  const int64_t batch = q.tensor->size(0), count = a.count();
  if (a.v.size() != a.k.size() || a.rows.size() != a.k.size()) {
    fail("branch_k, branch_v, branch_rows: expected the same count of branches, got ", a.k.size(),
         ", ", a.v.size(), " and ", a.rows.size());
  }
  for (size_t i = 0; i < a.k.size(); ++i) {
    const std::string number = "[" + std::to_string(i) + "]";
    check_other_keys("branch_k" + number, a.k[i], k, q, {-1, "rows"});
    check_values("branch_v" + number, a.v[i], a.k[i], q);
    check_tensor("branch_rows" + number, a.rows[i], q, ScalarType::Long, {{batch}});
  }
  check_tensor("weights", *a.weights, q, ScalarType::Float, {{count}, {batch}});
  if (a.masks) {
    const bool one = a.masks->dim() == 3 && a.masks->size(1) == 1;
    check_tensor("masks", *a.masks, q, ScalarType::Float,
                 {{count}, {one ? 1 : batch, "1 or batch"}, {q.tensor->size(2)}});
  }
  if (shared_softmax < 0 || shared_softmax > count)
    fail("shared_softmax: expected 0 to ", count, ", got ", shared_softmax);
}

// All that can be said without the tensors' values.
void check_branch_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                            const std::vector<Tensor>& branch_k,
                            const std::vector<Tensor>& branch_v,
                            const std::vector<Tensor>& branch_rows, const Tensor& weights,
                            const std::optional<Tensor>& masks, int64_t shared_softmax,
                            std::optional<double> scale, bool wide) {
  const First first{"q", &q, wide};
  check_queries(first);
  check_keys("k", k, first, {-1, "tokens"});
  check_values("v", v, k, first);
  const BranchArguments branches{branch_k, branch_v, branch_rows, &weights,
                                 masks ? &*masks : nullptr};
  check_branches(branches, k, first, shared_softmax);
  if (shared_softmax > 0 && k.size(2) == 0) {
    fail("shared_softmax: expected 0 where there are no text tokens to share a softmax with, got ",
         shared_softmax);
  }
  check_scale(scale, first);
}

Tensor contiguous_of(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

// What the kernel reads side by side; copies where it is not.
struct Contiguous {
  std::vector<Tensor> rows;
  Tensor weights;
  std::optional<Tensor> masks;

  explicit Contiguous(const BranchArguments& a) : weights(contiguous_of(*a.weights)) {
    rows.reserve(a.rows.size());
    for (const Tensor& t : a.rows) rows.push_back(contiguous_of(t));
    if (a.masks) masks = contiguous_of(*a.masks);
  }
};

#ifndef ATTNPATCH_OPS_ON_CUDA
// Reading rows on a GPU would wait for it: the kernel looks there.
void check_rows(const BranchArguments& a, const Contiguous& c) {
  for (size_t i = 0; i < a.rows.size(); ++i) {
    const auto* rows = static_cast<const int64_t*>(c.rows[i].const_data_ptr());
    const int64_t count = a.k[i].size(0);
    for (int64_t b = 0; b < c.rows[i].size(0); ++b) {
      if (rows[b] < count) continue;
      fail("branch_rows[", i, "]: expected rows below ", count, ", those of branch_k[", i,
           "], got ", rows[b]);
    }
  }
}

void check_branch_attention_on_cpu(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const std::vector<Tensor>& branch_k,
                                   const std::vector<Tensor>& branch_v,
                                   const std::vector<Tensor>& branch_rows, const Tensor& weights,
                                   const std::optional<Tensor>& masks, int64_t shared_softmax,
                                   std::optional<double> scale, bool wide) {
  check_branch_attention(q, k, v, branch_k, branch_v, branch_rows, weights, masks, shared_softmax,
                         scale, wide);
  const BranchArguments arguments{branch_k, branch_v, branch_rows, &weights,
                                  masks ? &*masks : nullptr};
  check_rows(arguments, Contiguous(arguments));
}
#endif

std::vector<AttentionBranch> branches_of(const BranchArguments& a, const Contiguous& c,
                                         const Tensor& q) {
  const int64_t batch = q.size(0);
  std::vector<AttentionBranch> branches;
  for (size_t i = 0; i < a.k.size(); ++i) {
    AttentionBranch branch{.k = view_of(a.k[i]),
                           .v = view_of(a.v[i]),
                           .row_count = a.k[i].size(0),
                           .tokens = a.k[i].size(2)};
    const auto index = static_cast<int64_t>(i);
    branch.rows = static_cast<const int64_t*>(c.rows[i].const_data_ptr());
    branch.weights = static_cast<const float*>(c.weights.const_data_ptr()) + index * batch;
    if (c.masks) {
      const int64_t masks = c.masks->size(1);
      branch.mask =
          static_cast<const float*>(c.masks->const_data_ptr()) + index * masks * q.size(2);
      branch.mask_batch_stride = masks == 1 ? 0 : q.size(2);
    }
    branches.push_back(branch);
  }
  return branches;
}

Tensor branch_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::vector<Tensor>& branch_k, const std::vector<Tensor>& branch_v,
                        const std::vector<Tensor>& branch_rows, const Tensor& weights,
                        const std::optional<Tensor>& masks, int64_t shared_softmax,
                        std::optional<double> scale) {
  check_branch_attention(q, k, v, branch_k, branch_v, branch_rows, weights, masks, shared_softmax,
                         scale, false);
  const BranchArguments arguments{branch_k, branch_v, branch_rows, &weights,
                                  masks ? &*masks : nullptr};
  const Contiguous read(arguments);
#ifndef ATTNPATCH_OPS_ON_CUDA
  check_rows(arguments, read);
#endif

  Tensor out = allocate_attention(q);
  BranchAttentionParams params;
  fill(params, q, k, v, out, scale);
  params.branches = branches_of(arguments, read, q);
  params.shared_softmax = shared_softmax;
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
      "Tensor[] branch_rows, Tensor weights, Tensor? masks=None, int shared_softmax=0, float? "
      "scale=None) "
      "-> Tensor");
  m.def(
      "_check_branch_attention(Tensor q, Tensor k, Tensor v, Tensor[] branch_k, Tensor[] "
      "branch_v, Tensor[] branch_rows, Tensor weights, Tensor? masks=None, int shared_softmax=0, "
      "float? "
      "scale=None, *, bool wide=False) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(attnpatch, CompositeExplicitAutograd, m) {
  m.impl("_check_branch_attention", TORCH_BOX(&attnpatch::check_branch_attention));
}

STABLE_TORCH_LIBRARY_IMPL(attnpatch, CPU, m) {
  m.impl("_check_branch_attention", TORCH_BOX(&attnpatch::check_branch_attention_on_cpu));
}
#endif

STABLE_TORCH_LIBRARY_IMPL(attnpatch, ATTNPATCH_DISPATCH_KEY, m) {
  m.impl("branch_attention", TORCH_BOX(&attnpatch::branch_attention));
}
