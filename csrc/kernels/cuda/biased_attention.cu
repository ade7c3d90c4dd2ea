// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cuda/biased_attention.cuh"
#include "kernels/cuda/launch.h"

namespace attnpatch::kernels {
namespace {

using device::BiasedAttentionArguments;
constexpr const char* kName = "biased_attention";

template <typename T>
void launch(const BiasedAttentionArguments& a, cudaStream_t stream) {
  device::with_size(a.head_size, [&](auto size) {
    using Biased = device::BiasedFlash<T, size()>;
    constexpr int64_t kQueries = Biased::Core::kQueries;
    const dim3 grid(static_cast<unsigned>((a.queries + kQueries - 1) / kQueries),
                    static_cast<unsigned>(a.heads), static_cast<unsigned>(a.batch));
    device::launch(kName, &device::biased_attention_half<T, size()>, grid, device::kThreads,
                   Biased::shared_bytes(a.terms), stream, a);
  });
}

}  // namespace

void biased_attention_cuda(const BiasedAttentionParams& params, void* stream_handle) {
  if (params.batch * params.heads * params.queries * params.head_size == 0) return;
  auto* stream = static_cast<cudaStream_t>(stream_handle);
  const BiasedAttentionArguments a = device::arguments_of(params);
  device::with_half_dtype(params.dtype, [&]<class T>() { launch<T>(a, stream); });
}

}  // namespace attnpatch::kernels
