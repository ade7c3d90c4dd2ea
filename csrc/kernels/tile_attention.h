// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Self-attention within the tiles of a token grid, and to keys that all tiles share, in one
// softmax:
//
//   out[b,h,n] = softmax(s q·[k_t, k_shared]) [v_t, v_shared]   with t the tile of token n
//
// The keys k_t of a tile are those of its own tokens on the grid, or a run of k.

#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention_params.h"
#include "kernels/tiling.h"

namespace attnpatch::kernels {

struct TileAttentionParams : AttentionParams {
  Tiling tiling;
  // Tile t has the keys [starts[t], starts[t + 1]) of k. Empty: k lies on the grid, as q does.
  std::vector<int64_t> starts;
  PoolStride stride;  // by which they were pooled
  int64_t shared_tokens = 0;
  AttentionView shared_k, shared_v;
};

void tile_attention_cpu(const TileAttentionParams& params);

// The same where all data lies on the current CUDA device; `stream` is a cudaStream_t. Returns
// before the work is done. Throws where a launch fails, for a head size over 160, float32 or
// grouped heads.
void tile_attention_cuda(const TileAttentionParams& params, void* stream);

}  // namespace attnpatch::kernels
