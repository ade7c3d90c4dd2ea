// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/pool_tokens.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/arguments.h"
#include "ops/backend.h"
#include "ops/tiling_arguments.h"

namespace attnpatch::ops {
namespace {

// How the grid is cut and pooled.
struct Pooling {
  kernels::Tiling tiling;
  kernels::PoolStride window, stride;
};

Pooling pooling_of(const std::vector<int64_t>& grid, const std::vector<int64_t>& tile,
                   const std::vector<int64_t>& offset, const std::vector<int64_t>& window,
                   const std::vector<int64_t>& stride) {
  const Pooling pooling{tiling_of(grid, tile, offset), pool_stride_of("window", window),
                        pool_stride_of("stride", stride)};
  if (stride.size() != window.size()) {
    fail("stride: expected as many numbers as window ", text_of(window), ", got ", text_of(stride));
  }
  return pooling;
}

void check(const Tensor& x, const Pooling& pooling, const std::string& mode,
           const std::vector<double>& blends, bool wide) {
  const kernels::Tiling& tiling = pooling.tiling;
  check_first({"x", &x, wide}, {{-1, "batch"}, {tiling.height * tiling.width}, {-1, "channels"}});
  if (mode != "avg" && mode != "max") {
    fail("mode: expected \"avg\" or \"max\", got \"", mode, "\"");
  }
  for (const double blend : blends) {
    if (!(blend >= 0.0 && blend <= 1.0)) fail("blends: expected 0 to 1 each, got ", blend);
  }
}

// The operators have as many parameters as their schemas say.
#ifndef ATTNPATCH_OPS_ON_CUDA
void check_pool_tokens(const Tensor& x, const std::vector<int64_t>& grid,
                       const std::vector<int64_t>& tile, const std::vector<int64_t>& offset,
                       const std::vector<int64_t>& window, const std::vector<int64_t>& stride,
                       const std::string& mode, const std::vector<double>& blends, bool wide) {
  check(x, pooling_of(grid, tile, offset, window, stride), mode, blends, wide);
}
#endif

std::vector<Tensor> pool_tokens(const Tensor& x, const std::vector<int64_t>& grid,
                                const std::vector<int64_t>& tile,
                                const std::vector<int64_t>& offset,
                                const std::vector<int64_t>& window,
                                const std::vector<int64_t>& stride, const std::string& mode,
                                const std::vector<double>& blends) {
  const Pooling pooling = pooling_of(grid, tile, offset, window, stride);
  check(x, pooling, mode, blends, false);
  kernels::PoolTokensParams params;
  params.tiling = pooling.tiling;
  params.stride = pooling.stride;
  params.dtype = dtype_of(x);
  params.batch = x.size(0);
  params.channels = x.size(2);
  params.x = x.const_data_ptr();
  params.batch_stride = x.stride(0);
  params.token_stride = x.stride(1);
  params.channel_stride = x.stride(2);
  params.window_down = pooling.window.down;
  params.window_across = pooling.window.across;
  params.largest = mode == "max";
  params.blends = {blends.begin(), blends.end()};
  use_threads(params);

  const int64_t tokens = kernels::pooled_starts(params.tiling, params.stride).back();
  std::vector<Tensor> results;
  for (size_t i = 0; i < blends.size(); ++i) {
    results.push_back(torch::stable::empty({x.size(0), tokens, x.size(2)}, x.scalar_type(),
                                           std::nullopt, x.device()));
    params.out.push_back(results.back().mutable_data_ptr());
  }
  if constexpr (kOnCuda) {
    const OnDevice device(x);
    kernels::pool_tokens_cuda(params, device.stream());
  } else {
    kernels::pool_tokens_cpu(params);
  }
  return results;
}

}  // namespace
}  // namespace attnpatch::ops

#ifndef ATTNPATCH_OPS_ON_CUDA
STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "pool_tokens(Tensor x, int[2] grid, int[2] tile, int[2] offset, int[] window, int[] stride, "
      "str mode, float[] blends) -> Tensor[]");
  m.def(
      "_check_pool_tokens(Tensor x, int[2] grid, int[2] tile, int[2] offset, int[] window, int[] "
      "stride, str mode, float[] blends, *, bool wide=False) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(attnpatch, CompositeExplicitAutograd, m) {
  m.impl("_check_pool_tokens", TORCH_BOX(&attnpatch::ops::check_pool_tokens));
}
#endif

STABLE_TORCH_LIBRARY_IMPL(attnpatch, ATTNPATCH_DISPATCH_KEY, m) {
  m.impl("pool_tokens", TORCH_BOX(&attnpatch::ops::pool_tokens));
}
