// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cuda/branch_attention.cuh"
#include "kernels/cuda/launch.h"

namespace attnpatch {
namespace {

constexpr const char* kName = "branch_attention";

template <typename T>
void launch_half(const device::BranchAttentionPlan& plan, dim3 grid, cudaStream_t stream) {
  device::with_size(plan.arguments.head_size, [&](auto size) {
    device::launch(kName, &device::branch_attention_half<T, size()>, grid, device::kThreads,
                   plan.shared_bytes, stream, plan.arguments);
  });
}

}  // namespace

void branch_attention_cuda(const BranchAttentionParams& params, void* stream_handle) {
  if (params.batch * params.heads * params.queries * params.head_size == 0) return;
  auto* stream = static_cast<cudaStream_t>(stream_handle);
  const device::DeviceLimits limits = device::current_limits(kName);
  const auto plan =
      device::plan_branch_attention(params, limits.shared_bytes, limits.multiprocessors);
  const dim3 grid(static_cast<unsigned>(plan.grid), static_cast<unsigned>(params.heads),
                  static_cast<unsigned>(params.batch));
  switch (params.kind) {
    case ScalarKind::kFloat16:
      return launch_half<__half>(plan, grid, stream);
    case ScalarKind::kBFloat16:
      return launch_half<__nv_bfloat16>(plan, grid, stream);
    case ScalarKind::kFloat32:
      return device::launch(kName, &device::branch_attention_any<float>, grid, device::kThreads,
                            plan.shared_bytes, stream, plan.arguments);
  }
}

}  // namespace attnpatch
