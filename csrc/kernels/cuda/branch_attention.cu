// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cuda/branch_attention.cuh"
#include "kernels/cuda/launch.h"

namespace attnpatch::kernels {
namespace {

constexpr const char* kName = "branch_attention";

dim3 grid_of(const device::BranchAttentionPlan& plan) {
  const device::BranchAttentionArguments& a = plan.arguments;
  return {static_cast<unsigned>(plan.grid), static_cast<unsigned>(a.heads),
          static_cast<unsigned>(a.batch)};
}

template <typename T>
void launch(const BranchAttentionParams& params, cudaStream_t stream) {
  void (*kernel)(device::BranchAttentionArguments) = nullptr;
  device::with_size(params.head_size,
                    [&](auto size) { kernel = &device::branch_attention_half<T, size()>; });
  const auto plan = device::plan_branch_attention(
      params, device::current_limits(kName), [&](size_t shared_bytes) {
        return device::blocks_at_once(reinterpret_cast<const void*>(kernel), device::kThreads,
                                      shared_bytes, kName);
      });
  device::launch(kName, kernel, grid_of(plan), device::kThreads, plan.shared_bytes, stream,
                 plan.arguments);
}

}  // namespace

void branch_attention_cuda(const BranchAttentionParams& params, void* stream_handle) {
  if (params.batch * params.heads * params.queries * params.head_size == 0) return;
  auto* stream = static_cast<cudaStream_t>(stream_handle);
  device::with_half_dtype(params.dtype, [&]<class T>() { launch<T>(params, stream); });
}

}  // namespace attnpatch::kernels
