// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cuda/attention_column_mean.cuh"
#include "kernels/cuda/launch.h"

namespace attnpatch::kernels {
namespace {

using device::ColumnMeanArguments;
constexpr const char* kName = "attention_column_mean";

dim3 grid_of(int64_t items, int64_t each, int64_t heads, int64_t batch) {
  return {static_cast<unsigned>((items + each - 1) / each), static_cast<unsigned>(heads),
          static_cast<unsigned>(batch)};
}

// The kernels that serve a type and head size: attention, and the sums of some recorded rows.
struct Kernels {
  void (*attention)(ColumnMeanArguments);
  void (*sums)(ColumnMeanArguments);
  int queries, keys;  // that a block of threads takes
  size_t shared, sums_shared;
};

template <typename T>
Kernels kernels_for(int64_t head_size) {
  Kernels kernels{};
  device::with_size(head_size, [&](auto size) {
    using Core = device::Flash<T, size()>;
    kernels = {&device::column_mean_attention_half<T, size()>,
               &device::column_sums_half<T, size()>,
               Core::kQueries,
               Core::kKeys,
               Core::shared_bytes(),
               Core::column_bytes()};
  });
  return kernels;
}

}  // namespace

size_t attention_column_mean_cuda_scratch(const AttentionColumnMeanParams& params) {
  return device::column_mean_scratch(params);
}

void attention_column_mean_cuda(const AttentionColumnMeanParams& params, void* scratch,
                                void* stream_handle) {
  if (params.batch * params.heads == 0) return;
  auto* stream = static_cast<cudaStream_t>(stream_handle);
  const Kernels kernels = device::with_half_dtype(
      params.dtype, [&]<class T>() { return kernels_for<T>(params.head_size); });
  const ColumnMeanArguments all = device::arguments_of(params, scratch);
  device::launch(kName, kernels.attention,
                 grid_of(all.queries, kernels.queries, all.heads, all.batch), device::kThreads,
                 kernels.shared, stream, all);
  for (int64_t first = 0; first < params.recorded; first += device::kMostRecorded) {
    const ColumnMeanArguments a = device::arguments_of(params, scratch, first);
    device::launch(kName, kernels.sums, grid_of(a.keys, kernels.keys, a.heads, a.recorded),
                   device::kThreads, kernels.sums_shared, stream, a);
    device::launch(kName, &device::mean_over_heads,
                   grid_of(a.keys, device::kThreads, a.recorded, 1), device::kThreads, 0, stream,
                   a);
  }
}

}  // namespace attnpatch::kernels
