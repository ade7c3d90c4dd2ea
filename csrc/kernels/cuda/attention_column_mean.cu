// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cuda/attention_column_mean.cuh"
#include "kernels/cuda/launch.h"

namespace attnpatch {
namespace {

using device::ColumnMeanArguments;
constexpr const char* kName = "attention_column_mean";

dim3 grid_of(int64_t items, int64_t each, int64_t heads, int64_t batch) {
  return {static_cast<unsigned>((items + each - 1) / each), static_cast<unsigned>(heads),
          static_cast<unsigned>(batch)};
}

template <typename T>
void launch_half(const ColumnMeanArguments& a, cudaStream_t stream) {
  device::with_size(a.head_size, [&](auto size) {
    using Core = device::Flash<T, size()>;
    device::launch(kName, &device::column_mean_attention_half<T, size()>,
                   grid_of(a.queries, device::kTileQueries, a.heads, a.batch), device::kThreads,
                   Core::shared_bytes(), stream, a);
    if (a.recorded == 0) return;
    device::launch(kName, &device::column_sums_half<T, size()>,
                   grid_of(a.keys, Core::kKeys, a.heads, a.recorded), device::kThreads,
                   Core::column_bytes(), stream, a);
  });
}

void launch_float(const ColumnMeanArguments& a, cudaStream_t stream) {
  const size_t shared = device::any_shared_bytes(a.head_size);
  device::launch(kName, &device::column_mean_attention_any<float>,
                 grid_of(a.queries, device::kAnyQueries, a.heads, a.batch), device::kThreads,
                 shared, stream, a);
  if (a.recorded == 0) return;
  device::launch(kName, &device::column_sums_any<float>,
                 grid_of(a.keys, device::kAnyQueries, a.heads, a.recorded), device::kThreads,
                 shared, stream, a);
}

}  // namespace

size_t attention_column_mean_cuda_scratch(const AttentionColumnMeanParams& params) {
  return device::column_mean_scratch(params);
}

void attention_column_mean_cuda(const AttentionColumnMeanParams& params, void* scratch,
                                void* stream_handle) {
  auto* stream = static_cast<cudaStream_t>(stream_handle);
  const ColumnMeanArguments a = device::arguments_of(params, scratch);
  switch (params.kind) {
    case ScalarKind::kFloat16:
      launch_half<__half>(a, stream);
      break;
    case ScalarKind::kBFloat16:
      launch_half<__nv_bfloat16>(a, stream);
      break;
    case ScalarKind::kFloat32:
      launch_float(a, stream);
      break;
  }
  if (a.recorded == 0) return;
  device::launch(kName, &device::mean_over_heads, grid_of(a.keys, device::kThreads, a.recorded, 1),
                 device::kThreads, 0, stream, a);
}

}  // namespace attnpatch
