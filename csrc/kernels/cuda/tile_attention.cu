// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cuda/launch.h"
#include "kernels/cuda/tile_attention.cuh"

namespace attnpatch::kernels {
namespace {

using device::TileAttentionArguments;
constexpr const char* kName = "tile_attention";

dim3 grid_of(const TileAttentionArguments& a) {
  return {static_cast<unsigned>(a.tiles.count * a.blocks_per_tile), static_cast<unsigned>(a.heads),
          static_cast<unsigned>(a.batch)};
}

template <typename T>
void launch(const TileAttentionArguments& a, cudaStream_t stream) {
  device::with_size(a.head_size, [&](auto size) {
    device::launch(kName, &device::tile_attention_half<T, size()>, grid_of(a), device::kThreads,
                   device::Flash<T, size()>::shared_bytes(), stream, a);
  });
}

}  // namespace

void tile_attention_cuda(const TileAttentionParams& params, void* stream_handle) {
  if (params.batch * params.heads * params.head_size == 0) return;
  auto* stream = static_cast<cudaStream_t>(stream_handle);
  const TileAttentionArguments a = device::arguments_of(params);
  device::with_half_dtype(params.dtype, [&]<class T>() { launch<T>(a, stream); });
}

}  // namespace attnpatch::kernels
