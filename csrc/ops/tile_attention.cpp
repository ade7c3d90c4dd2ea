// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/tile_attention.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "ops/arguments.h"
#include "ops/backend.h"
#include "ops/tiling_arguments.h"

namespace attnpatch {
namespace {

// The tiles' own keys: on the grid of q, or tile after tile.
void check_own_keys(const Tensor& q, const Tensor& k, const Tensor& v, int64_t expected,
                    const std::vector<int64_t>& stride) {
  check_keys("k", k, q);
  check_keys("v", v, q);
  STD_TORCH_CHECK(k.size(0) == q.size(0), "k: got ", shape_of(k), ", expected the batch of q, ",
                  shape_of(q));
  STD_TORCH_CHECK(k.size(2) == expected, "k: got ", k.size(2), " tokens, expected ", expected,
                  " for stride ", text_of(stride));
  check_pair("k, v", k, v);
}

void check_shared_keys(const Tensor& q, const Tensor& k, const Tensor& v) {
  check_keys("shared_k", k, q);
  check_keys("shared_v", v, q);
  check_pair("shared_k, shared_v", k, v);
  STD_TORCH_CHECK(k.size(0) == q.size(0), "shared_k: got ", shape_of(k),
                  ", expected the batch of q, ", shape_of(q));
}

Tensor tile_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                      const std::vector<int64_t>& grid, const std::vector<int64_t>& tile,
                      const std::vector<int64_t>& offset, const std::vector<int64_t>& stride,
                      const std::optional<Tensor>& shared_k, const std::optional<Tensor>& shared_v,
                      std::optional<double> scale) {
  TileAttentionParams params;
  params.tiling = tiling_of(grid, tile, offset);
  const int64_t tokens = params.tiling.height * params.tiling.width;
  STD_TORCH_CHECK(q.dim() == 4 && q.size(2) == tokens, "q: got ", shape_of(q),
                  ", expected (batch, heads, ", text_of(params.tiling), ", head size)");
  check_device("q", q);
  params.kind = kind_of("q", q);
  if (!stride.empty()) {
    params.stride = pool_stride_of("stride", stride);
    params.starts = pooled_starts(params.tiling, params.stride);
  }
  check_own_keys(q, k, v, stride.empty() ? tokens : params.starts.back(), stride);
  STD_TORCH_CHECK(shared_k.has_value() == shared_v.has_value(),
                  "shared_k, shared_v: expected both or none, got one");
  if (shared_k) {
    check_shared_keys(q, *shared_k, *shared_v);
    params.shared_tokens = shared_k->size(2);
    params.shared_k = view_of(*shared_k);
    params.shared_v = view_of(*shared_v);
  }
  Tensor out = allocate_attention(q);
  params.batch = q.size(0);
  params.heads = q.size(1);
  params.head_size = q.size(3);
  params.scale = attention_scale(q, scale);
  params.q = view_of(q);
  params.k = view_of(k);
  params.v = view_of(v);
  params.out = view_of(out);
  params.threads = threads();
  params.parallel_for = parallel_for;
  if constexpr (kOnCuda) {
    const OnDevice device(q);
    tile_attention_cuda(params, device.stream());
  } else {
    tile_attention_cpu(params);
  }
  return out;
}

}  // namespace
}  // namespace attnpatch

#ifndef ATTNPATCH_OPS_ON_CUDA
STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "tile_attention(Tensor q, Tensor k, Tensor v, int[2] grid, int[2] tile, int[2] offset, "
      "int[] stride, Tensor? shared_k=None, Tensor? shared_v=None, float? scale=None) -> Tensor");
}
#endif

STABLE_TORCH_LIBRARY_IMPL(attnpatch, ATTNPATCH_DISPATCH_KEY, m) {
  m.impl("tile_attention", TORCH_BOX(&attnpatch::tile_attention));
}
