// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/tile_attention.h"

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "ops/arguments.h"
#include "ops/backend.h"
#include "ops/tiling_arguments.h"

namespace attnpatch::ops {
namespace {

// Where tokens lie, from arguments that are checked.
struct Layout {
  kernels::Tiling tiling;
  kernels::PoolStride stride;
  std::vector<int64_t> starts;  // of the tiles' own keys, where they lie tile after tile

  Layout(const std::vector<int64_t>& grid, const std::vector<int64_t>& tile,
         const std::vector<int64_t>& offset, const std::vector<int64_t>& pooled)
      : tiling(tiling_of(grid, tile, offset)) {
    if (pooled.empty()) return;
    stride = pool_stride_of("stride", pooled);
    starts = kernels::pooled_starts(tiling, stride);
  }

  int64_t queries() const { return tiling.height * tiling.width; }
  int64_t keys() const { return starts.empty() ? queries() : starts.back(); }
};

// The tensors of a call and their factor on the scores; both shared ones or none.
struct Arguments {
  const Tensor *q, *k, *v;
  const Tensor *shared_k, *shared_v;
  std::optional<double> scale;
};

const Tensor* pointer_to(const std::optional<Tensor>& t) { return t ? &*t : nullptr; }

void check(const Layout& layout, const Arguments& a, bool wide) {
  const First first{"q", a.q, wide};
  check_queries(first, {layout.queries()});
  check_keys("k", *a.k, first, {layout.keys()});
  check_values("v", *a.v, *a.k, first);
  if ((a.shared_k == nullptr) != (a.shared_v == nullptr)) {
    fail("shared_k, shared_v: expected both or none, got one");
  }
  if (a.shared_k != nullptr) {
    check_other_keys("shared_k", *a.shared_k, *a.k, first, {a.q->size(0)});
    check_values("shared_v", *a.shared_v, *a.shared_k, first);
  }
  check_scale(a.scale, first);
}

// The operators have as many parameters as their schemas say.
#ifndef ATTNPATCH_OPS_ON_CUDA
void check_tile_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                          const std::vector<int64_t>& grid, const std::vector<int64_t>& tile,
                          const std::vector<int64_t>& offset, const std::vector<int64_t>& stride,
                          const std::optional<Tensor>& shared_k,
                          const std::optional<Tensor>& shared_v, std::optional<double> scale,
                          bool wide) {
  check({grid, tile, offset, stride},
        {&q, &k, &v, pointer_to(shared_k), pointer_to(shared_v), scale}, wide);
}
#endif

Tensor tile_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                      const std::vector<int64_t>& grid, const std::vector<int64_t>& tile,
                      const std::vector<int64_t>& offset, const std::vector<int64_t>& stride,
                      const std::optional<Tensor>& shared_k, const std::optional<Tensor>& shared_v,
                      std::optional<double> scale) {
  const Layout layout(grid, tile, offset, stride);
  check(layout, {&q, &k, &v, pointer_to(shared_k), pointer_to(shared_v), scale}, false);
  kernels::TileAttentionParams params;
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
    kernels::tile_attention_cuda(params, device.stream());
  } else {
    kernels::tile_attention_cpu(params);
  }
  return out;
}

}  // namespace
}  // namespace attnpatch::ops

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
  m.impl("_check_tile_attention", TORCH_BOX(&attnpatch::ops::check_tile_attention));
}
#endif

STABLE_TORCH_LIBRARY_IMPL(attnpatch, ATTNPATCH_DISPATCH_KEY, m) {
  m.impl("tile_attention", TORCH_BOX(&attnpatch::ops::tile_attention));
}
