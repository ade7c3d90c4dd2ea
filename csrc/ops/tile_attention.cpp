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

// Where tokens lie, from arguments that are checked.
struct Layout {
  Tiling tiling;
  PoolStride stride;
  std::vector<int64_t> starts;  // of the tiles' own keys, where they lie tile after tile

  Layout(const std::vector<int64_t>& grid, const std::vector<int64_t>& tile,
         const std::vector<int64_t>& offset, const std::vector<int64_t>& pooled)
      : tiling(tiling_of(grid, tile, offset)) {
    if (pooled.empty()) return;
    stride = pool_stride_of("stride", pooled);
    starts = pooled_starts(tiling, stride);
  }

  int64_t queries() const { return tiling.height * tiling.width; }
  int64_t keys() const { return starts.empty() ? queries() : starts.back(); }
};

void check_tensors(const Layout& layout, const Tensor& q, const Tensor& k, const Tensor& v,
                   const std::optional<Tensor>& shared_k, const std::optional<Tensor>& shared_v,
                   std::optional<double> scale, bool wide) {
  const First first{"q", &q, wide};
  check_queries(first, {layout.queries()});
  check_keys("k", k, first, {layout.keys()});
  check_values("v", v, k, first);
  if (shared_k.has_value() != shared_v.has_value()) {
    fail("shared_k, shared_v: expected both or none, got one");
  }
  if (shared_k) {
    check_other_keys("shared_k", *shared_k, k, first, {q.size(0)});
    check_values("shared_v", *shared_v, *shared_k, first);
  }
  check_scale(scale, first);
}

#ifndef ATTNPATCH_OPS_ON_CUDA
void check_tile_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                          const std::vector<int64_t>& grid, const std::vector<int64_t>& tile,
                          const std::vector<int64_t>& offset, const std::vector<int64_t>& stride,
                          const std::optional<Tensor>& shared_k,
                          const std::optional<Tensor>& shared_v, std::optional<double> scale,
                          bool wide) {
  check_tensors({grid, tile, offset, stride}, q, k, v, shared_k, shared_v, scale, wide);
}
#endif

Tensor tile_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                      const std::vector<int64_t>& grid, const std::vector<int64_t>& tile,
                      const std::vector<int64_t>& offset, const std::vector<int64_t>& stride,
                      const std::optional<Tensor>& shared_k, const std::optional<Tensor>& shared_v,
                      std::optional<double> scale) {
  const Layout layout(grid, tile, offset, stride);
  check_tensors(layout, q, k, v, shared_k, shared_v, scale, false);
  TileAttentionParams params;
  params.tiling = layout.tiling;
  params.stride = layout.stride;
  params.starts = layout.starts;
  if (shared_k) {
    params.shared_tokens = shared_k->size(2);
    params.shared_k = view_of(*shared_k);
    params.shared_v = view_of(*shared_v);
  }
  Tensor out = allocate_attention(q);
  fill(params, q, k, v, out, scale);
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
  m.def(
      "_check_tile_attention(Tensor q, Tensor k, Tensor v, int[2] grid, int[2] tile, int[2] "
      "offset, int[] stride, Tensor? shared_k=None, Tensor? shared_v=None, float? scale=None, *, "
      "bool wide=False) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(attnpatch, CompositeExplicitAutograd, m) {
  m.impl("_check_tile_attention", TORCH_BOX(&attnpatch::check_tile_attention));
}
#endif

STABLE_TORCH_LIBRARY_IMPL(attnpatch, ATTNPATCH_DISPATCH_KEY, m) {
  m.impl("tile_attention", TORCH_BOX(&attnpatch::tile_attention));
}
