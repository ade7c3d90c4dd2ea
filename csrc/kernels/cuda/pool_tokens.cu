// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cuda/launch.h"
#include "kernels/cuda/pool_tokens.cuh"

namespace attnpatch {

void pool_tokens_cuda(const PoolTokensParams& params, void* stream) {
  if (params.batch * params.channels == 0) return;
  const auto launch = [&](auto* kernel) {
    for (size_t first = 0; first < params.blends.size(); first += device::kMostBlends) {
      const device::PoolTokensArguments a = device::arguments_of(params, first);
      const dim3 grid(static_cast<unsigned>(a.pooled_tokens), static_cast<unsigned>(a.batch));
      device::launch("pool_tokens", kernel, grid, device::kThreads, 0,
                     static_cast<cudaStream_t>(stream), a);
    }
  };
  switch (params.kind) {
    case ScalarKind::kFloat16:
      return launch(&device::pool_tokens<__half>);
    case ScalarKind::kBFloat16:
      return launch(&device::pool_tokens<__nv_bfloat16>);
    case ScalarKind::kFloat32:
      return launch(&device::pool_tokens<float>);
  }
}

}  // namespace attnpatch
