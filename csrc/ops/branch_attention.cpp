// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/branch_attention.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ops/arguments.h"
#include "ops/backend.h"

namespace attnpatch::ops {
namespace {

// What a call is given.
struct Arguments {
  const Tensor *q, *k, *v;
  std::span<const Tensor> branch_k, branch_v, branch_rows;
  const Tensor* weights;
  const Tensor* masks;  // or none
  int64_t shared_softmax;
  std::optional<double> scale;

  int64_t count() const { return static_cast<int64_t>(branch_k.size()); }
};

void check_branches(const Arguments& a, const First& q) {
  const int64_t batch = a.q->size(0), count = a.count();
  if (a.branch_v.size() != a.branch_k.size() || a.branch_rows.size() != a.branch_k.size()) {
    fail("branch_k, branch_v, branch_rows: expected the same count of branches, got ",
         a.branch_k.size(), ", ", a.branch_v.size(), " and ", a.branch_rows.size());
  }
  for (size_t i = 0; i < a.branch_k.size(); ++i) {
    const std::string number = "[" + std::to_string(i) + "]";
    check_other_keys("branch_k" + number, a.branch_k[i], *a.k, q, {-1, "rows"});
    check_values("branch_v" + number, a.branch_v[i], a.branch_k[i], q);
    check_tensor("branch_rows" + number, a.branch_rows[i], q, ScalarType::Long, {{batch}});
  }
  check_tensor("weights", *a.weights, q, ScalarType::Float, {{count}, {batch}});
  if (a.masks) {
    const bool one = a.masks->dim() == 3 && a.masks->size(1) == 1;
    check_tensor("masks", *a.masks, q, ScalarType::Float,
                 {{count}, {one ? 1 : batch, "1 or batch"}, {a.q->size(2)}});
  }
  if (a.shared_softmax < 0 || a.shared_softmax > count) {
    fail("shared_softmax: expected 0 to ", count, ", got ", a.shared_softmax);
  }
}

// All that can be said without the tensors' values.
void check(const Arguments& a, bool wide) {
  const First first{"q", a.q, wide};
  check_queries(first);
  check_keys("k", *a.k, first, {-1, "tokens"});
  check_values("v", *a.v, *a.k, first);
  check_branches(a, first);
  if (a.shared_softmax > 0 && a.k->size(2) == 0) {
    fail("shared_softmax: expected 0 where there are no text tokens to share a softmax with, got ",
         a.shared_softmax);
  }
  check_scale(a.scale, first);
}

Tensor contiguous_of(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

// What the kernel reads side by side; copies where it is not.
struct Contiguous {
  std::vector<Tensor> rows;
  Tensor weights;
  std::optional<Tensor> masks;

  explicit Contiguous(const Arguments& a) : weights(contiguous_of(*a.weights)) {
    rows.reserve(a.branch_rows.size());
    for (const Tensor& t : a.branch_rows) rows.push_back(contiguous_of(t));
    if (a.masks) masks = contiguous_of(*a.masks);
  }
};

#ifndef ATTNPATCH_OPS_ON_CUDA
// Reading rows on a GPU would wait for it: the kernel looks there.
void check_rows(const Arguments& a, const Contiguous& c) {
  for (size_t i = 0; i < a.branch_k.size(); ++i) {
    const auto* rows = static_cast<const int64_t*>(c.rows[i].const_data_ptr());
    const int64_t count = a.branch_k[i].size(0);
    for (int64_t b = 0; b < c.rows[i].size(0); ++b) {
      if (rows[b] < count) continue;
      fail("branch_rows[", i, "]: expected rows below ", count, ", those of branch_k[", i,
           "], got ", rows[b]);
    }
  }
}
#endif

std::vector<kernels::AttentionBranch> branches_of(const Arguments& a, const Contiguous& c) {
  const int64_t batch = a.q->size(0), queries = a.q->size(2);
  std::vector<kernels::AttentionBranch> branches;
  for (size_t i = 0; i < a.branch_k.size(); ++i) {
    kernels::AttentionBranch branch{.k = view_of(a.branch_k[i]),
                                    .v = view_of(a.branch_v[i]),
                                    .row_count = a.branch_k[i].size(0),
                                    .tokens = a.branch_k[i].size(2)};
    const auto index = static_cast<int64_t>(i);
    branch.rows = static_cast<const int64_t*>(c.rows[i].const_data_ptr());
    branch.weights = static_cast<const float*>(c.weights.const_data_ptr()) + index * batch;
    if (c.masks) {
      const int64_t masks = c.masks->size(1);
      branch.mask = static_cast<const float*>(c.masks->const_data_ptr()) + index * masks * queries;
      branch.mask_batch_stride = masks == 1 ? 0 : queries;
    }
    branches.push_back(branch);
  }
  return branches;
}

Tensor run(const Arguments& a) {
  check(a, false);
  const Contiguous read(a);
#ifndef ATTNPATCH_OPS_ON_CUDA
  check_rows(a, read);
#endif
  Tensor out = allocate_attention(*a.q);
  kernels::BranchAttentionParams params;
  fill(params, *a.q, *a.k, *a.v, out, a.scale);
  params.branches = branches_of(a, read);
  params.shared_softmax = a.shared_softmax;
  if constexpr (kOnCuda) {
    const OnDevice device(*a.q);
    kernels::branch_attention_cuda(params, device.stream());
  } else {
    kernels::branch_attention_cpu(params);
  }
  return out;
}

// The operators have as many parameters as their schemas say.
#ifndef ATTNPATCH_OPS_ON_CUDA
void check_branch_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                            const std::vector<Tensor>& branch_k,
                            const std::vector<Tensor>& branch_v,
                            const std::vector<Tensor>& branch_rows, const Tensor& weights,
                            const std::optional<Tensor>& masks, int64_t shared_softmax,
                            std::optional<double> scale, bool wide) {
  const Tensor* mask = masks ? &*masks : nullptr;
  check({&q, &k, &v, branch_k, branch_v, branch_rows, &weights, mask, shared_softmax, scale}, wide);
}

void check_branch_attention_on_cpu(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const std::vector<Tensor>& branch_k,
                                   const std::vector<Tensor>& branch_v,
                                   const std::vector<Tensor>& branch_rows, const Tensor& weights,
                                   const std::optional<Tensor>& masks, int64_t shared_softmax,
                                   std::optional<double> scale, bool wide) {
  const Tensor* mask = masks ? &*masks : nullptr;
  const Arguments arguments{&q,          &k,       &v,   branch_k,       branch_v,
                            branch_rows, &weights, mask, shared_softmax, scale};
  check(arguments, wide);
  check_rows(arguments, Contiguous(arguments));
}
#endif

Tensor branch_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::vector<Tensor>& branch_k, const std::vector<Tensor>& branch_v,
                        const std::vector<Tensor>& branch_rows, const Tensor& weights,
                        const std::optional<Tensor>& masks, int64_t shared_softmax,
                        std::optional<double> scale) {
  const Tensor* mask = masks ? &*masks : nullptr;
  return run({&q, &k, &v, branch_k, branch_v, branch_rows, &weights, mask, shared_softmax, scale});
}

}  // namespace
}  // namespace attnpatch::ops

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
  m.impl("_check_branch_attention", TORCH_BOX(&attnpatch::ops::check_branch_attention));
}

STABLE_TORCH_LIBRARY_IMPL(attnpatch, CPU, m) {
  m.impl("_check_branch_attention", TORCH_BOX(&attnpatch::ops::check_branch_attention_on_cpu));
}
#endif

STABLE_TORCH_LIBRARY_IMPL(attnpatch, ATTNPATCH_DISPATCH_KEY, m) {
  m.impl("branch_attention", TORCH_BOX(&attnpatch::ops::branch_attention));
}
