// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <type_traits>

#include "kernels/cuda/branch_attention.cuh"
#include "kernels/cuda/launch.h"

namespace attnpatch::kernels {
namespace {

constexpr const char* kName = "branch_attention";

template <typename T>
void launch(const device::BranchAttentionPlan& plan, cudaStream_t stream) {
  const device::BranchAttentionArguments& a = plan.arguments;
  const dim3 grid(static_cast<unsigned>(plan.grid), static_cast<unsigned>(a.heads),
                  static_cast<unsigned>(a.batch));
  if constexpr (std::is_same_v<T, float>) {
    device::launch(kName, &device::branch_attention_any<T>, grid, device::kThreads,
                   plan.shared_bytes, stream, a);
  } else {
    device::with_size(a.head_size, [&](auto size) {
      device::launch(kName, &device::branch_attention_half<T, size()>, grid, device::kThreads,
                     plan.shared_bytes, stream, a);
    });
  }
}

}  // namespace

void branch_attention_cuda(const BranchAttentionParams& params, void* stream_handle) {
  if (params.batch * params.heads * params.queries * params.head_size == 0) return;
  auto* stream = static_cast<cudaStream_t>(stream_handle);
  const device::DeviceLimits limits = device::current_limits(kName);
  const auto plan =
      device::plan_branch_attention(params, limits.shared_bytes, limits.multiprocessors);
  device::with_dtype(params.dtype, [&]<class T>() { launch<T>(plan, stream); });
}

}  // namespace attnpatch::kernels
