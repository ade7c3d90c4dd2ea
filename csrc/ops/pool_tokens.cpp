// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/pool_tokens.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <string>
#include <vector>

#include "ops/arguments.h"
#include "ops/backend.h"
#include "ops/tiling_arguments.h"

namespace attnpatch {
namespace {

std::vector<float> blends_of(const std::vector<double>& blends) {
  for (const double blend : blends) {
    STD_TORCH_CHECK(blend >= 0.0 && blend <= 1.0, "blends: got ", blend, ", expected 0 to 1");
  }
  return {blends.begin(), blends.end()};
}

std::vector<Tensor> pool_tokens(const Tensor& x, const std::vector<int64_t>& grid,
                                const std::vector<int64_t>& tile,
                                const std::vector<int64_t>& offset,
                                const std::vector<int64_t>& window,
                                const std::vector<int64_t>& stride, const std::string& mode,
                                const std::vector<double>& blends) {
  PoolTokensParams params;
  params.tiling = tiling_of(grid, tile, offset);
  STD_TORCH_CHECK(x.dim() == 3 && x.size(1) == params.tiling.height * params.tiling.width,
                  "x: got ", shape_of(x), ", expected (batch, ", text_of(params.tiling),
                  ", channels)");
  check_device("x", x);
  params.kind = kind_of("x", x);
  const PoolStride extent = pool_stride_of("window", window);
  params.stride = pool_stride_of("stride", stride);
  STD_TORCH_CHECK(stride.size() == window.size(), "stride: got ", text_of(stride),
                  ", expected as many numbers as window ", text_of(window));
  STD_TORCH_CHECK(mode == "avg" || mode == "max", "mode: got \"", mode,
                  "\", expected \"avg\" or \"max\"");
  params.batch = x.size(0);
  params.channels = x.size(2);
  params.x = x.const_data_ptr();
  params.batch_stride = x.stride(0);
  params.token_stride = x.stride(1);
  params.channel_stride = x.stride(2);
  params.window_down = extent.down;
  params.window_across = extent.across;
  params.largest = mode == "max";
  params.blends = blends_of(blends);
  params.parallel_for = parallel_for;

  const int64_t tokens = pooled_starts(params.tiling, params.stride).back();
  std::vector<Tensor> results;
  for (size_t i = 0; i < blends.size(); ++i) {
    results.push_back(torch::stable::empty({x.size(0), tokens, x.size(2)}, x.scalar_type(),
                                           std::nullopt, x.device()));
    params.out.push_back(results.back().mutable_data_ptr());
  }
  if constexpr (kOnCuda) {
    const OnDevice device(x);
    pool_tokens_cuda(params, device.stream());
  } else {
    pool_tokens_cpu(params);
  }
  return results;
}

}  // namespace
}  // namespace attnpatch

#ifndef ATTNPATCH_OPS_ON_CUDA
STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "pool_tokens(Tensor x, int[2] grid, int[2] tile, int[2] offset, int[] window, int[] stride, "
      "str mode, float[] blends) -> Tensor[]");
}
#endif

STABLE_TORCH_LIBRARY_IMPL(attnpatch, ATTNPATCH_DISPATCH_KEY, m) {
  m.impl("pool_tokens", TORCH_BOX(&attnpatch::pool_tokens));
}
