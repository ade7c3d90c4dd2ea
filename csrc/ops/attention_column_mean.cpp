// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/attention_column_mean.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "ops/arguments.h"
#include "ops/backend.h"

namespace attnpatch::ops {
namespace {

// The rows of the batch to record: all by default.
std::vector<int64_t> recorded_rows(const std::optional<std::vector<int64_t>>& rows, int64_t batch) {
  if (!rows) {
    std::vector<int64_t> all(static_cast<size_t>(batch));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  return *rows;
}

void check_attention_column_mean(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const std::optional<std::vector<int64_t>>& rows,
                                 std::optional<double> scale, bool wide) {
  const First first{"q", &q, wide};
  check_queries(first);
  check_keys("k", k, first, {-1, "tokens"});
  check_values("v", v, k, first);
  check_scale(scale, first);
  if (!rows) return;
  for (const int64_t row : *rows) {
    if (row < 0 || row >= q.size(0)) {
      fail("rows: expected at least 0 and below ", q.size(0), ", the batch of q, got ", row);
    }
  }
}

void run(const kernels::AttentionColumnMeanParams& params, Tensor& out, Tensor& column_mean) {
  if constexpr (!kOnCuda) {
    kernels::attention_column_mean_cpu(params);
  } else if (params.heads * params.queries * params.keys == 0) {
    torch::stable::zero_(out);
    torch::stable::zero_(column_mean);
  } else {
    const auto bytes = static_cast<int64_t>(kernels::attention_column_mean_cuda_scratch(params));
    const Tensor scratch =
        torch::stable::empty({bytes}, ScalarType::Byte, std::nullopt, out.device());
    const OnDevice device(out);
    kernels::attention_column_mean_cuda(params, scratch.mutable_data_ptr(), device.stream());
  }
}

std::tuple<Tensor, Tensor> attention_column_mean(const Tensor& q, const Tensor& k, const Tensor& v,
                                                 const std::optional<std::vector<int64_t>>& rows,
                                                 std::optional<double> scale) {
  check_attention_column_mean(q, k, v, rows, scale, false);

  kernels::AttentionColumnMeanParams params;
  const std::vector<int64_t> recorded = recorded_rows(rows, q.size(0));
  params.rows = recorded.data();
  params.recorded = static_cast<int64_t>(recorded.size());
  Tensor out = allocate_attention(q);
  Tensor column_mean = torch::stable::empty({params.recorded, k.size(2)}, ScalarType::Float,
                                            std::nullopt, q.device());
  fill(params, q, k, v, out, scale);
  params.column_mean = static_cast<float*>(column_mean.mutable_data_ptr());
  run(params, out, column_mean);
  return {out, column_mean};
}

}  // namespace
}  // namespace attnpatch::ops

#ifndef ATTNPATCH_OPS_ON_CUDA
STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "attention_column_mean(Tensor q, Tensor k, Tensor v, int[]? rows=None, float? scale=None) -> "
      "(Tensor out, Tensor column_mean)");
  m.def(
      "_check_attention_column_mean(Tensor q, Tensor k, Tensor v, int[]? rows=None, float? "
      "scale=None, *, bool wide=False) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(attnpatch, CompositeExplicitAutograd, m) {
  m.impl("_check_attention_column_mean", TORCH_BOX(&attnpatch::ops::check_attention_column_mean));
}
#endif

STABLE_TORCH_LIBRARY_IMPL(attnpatch, ATTNPATCH_DISPATCH_KEY, m) {
  m.impl("attention_column_mean", TORCH_BOX(&attnpatch::ops::attention_column_mean));
}
