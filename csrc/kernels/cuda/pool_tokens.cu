// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cuda/launch.h"
#include "kernels/cuda/pool_tokens.cuh"

namespace attnpatch::kernels {
namespace {

template <typename T, int kValues>
void launch(const device::PoolTokensArguments& a, cudaStream_t stream) {
  const int64_t threads = device::pieces_of(a, kValues);
  const dim3 grid(static_cast<unsigned>((threads + device::kThreads - 1) / device::kThreads),
                  static_cast<unsigned>(a.batch));
  device::launch("pool_tokens", &device::pool_tokens<T, kValues>, grid, device::kThreads, 0, stream,
                 a);
}

template <typename T>
void launch_all(const PoolTokensParams& params, cudaStream_t stream) {
  for (size_t first = 0; first < params.blends.size(); first += device::kMostBlends) {
    const device::PoolTokensArguments a = device::arguments_of(params, first);
    if (a.vectorized) {
      launch<T, 16 / sizeof(T)>(a, stream);
    } else {
      launch<T, 1>(a, stream);
    }
  }
}

}  // namespace

void pool_tokens_cuda(const PoolTokensParams& params, void* stream_handle) {
  if (params.batch * params.channels == 0) return;
  auto* stream = static_cast<cudaStream_t>(stream_handle);
  device::with_dtype(params.dtype, [&]<class T>() { launch_all<T>(params, stream); });
}

}  // namespace attnpatch::kernels
