// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/blur_and_blend.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>

#include "ops/arguments.h"
#include "ops/backend.h"

namespace attnpatch::ops {
namespace {

void check_blur_and_blend(const Tensor& x0, const Tensor& saliency, double sigma,
                          double /*threshold*/, int64_t kernel_size, bool wide) {
  check_first({"x0", &x0, wide}, {{-1, "batch"}, {-1, "channels"}, {-1, "height"}, {-1, "width"}});
  check_tensor("saliency", saliency, {"x0", &x0}, ScalarType::Float,
               {{x0.size(0)}, {-1, "rows"}, {-1, "columns"}});
  if (x0.numel() > 0 && saliency.numel() == 0) {
    fail("saliency: expected at least one row and column, got (", saliency.size(0), ", ",
         saliency.size(1), ", ", saliency.size(2), ")");
  }
  if (!(sigma >= 0.0)) fail("sigma: expected a number of at least 0, got ", sigma);
  if (kernel_size < 1 || kernel_size % 2 == 0) {
    fail("kernel_size: expected an odd number of at least 1, got ", kernel_size);
  }
}

Tensor blur_and_blend(const Tensor& x0, const Tensor& saliency, double sigma, double threshold,
                      int64_t kernel_size) {
  check_blur_and_blend(x0, saliency, sigma, threshold, kernel_size, false);
  const Tensor coarse = torch::stable::contiguous(saliency);
  kernels::BlurAndBlendParams params;
  params.dtype = dtype_of(x0);
  Tensor out = torch::stable::empty({x0.size(0), x0.size(1), x0.size(2), x0.size(3)},
                                    x0.scalar_type(), std::nullopt, x0.device());
  params.batch = x0.size(0);
  params.channels = x0.size(1);
  params.height = x0.size(2);
  params.width = x0.size(3);
  params.in = x0.const_data_ptr();
  params.batch_stride = x0.stride(0);
  params.channel_stride = x0.stride(1);
  params.row_stride = x0.stride(2);
  params.column_stride = x0.stride(3);
  params.out = out.mutable_data_ptr();
  params.saliency = static_cast<const float*>(coarse.const_data_ptr());
  params.rows = coarse.size(1);
  params.columns = coarse.size(2);
  params.threshold = static_cast<float>(threshold);
  params.taps = kernels::gaussian_taps(sigma, kernel_size / 2);
  use_threads(params);
  if constexpr (kOnCuda) {
    const OnDevice device(x0);
    kernels::blur_and_blend_cuda(params, device.stream());
  } else {
    kernels::blur_and_blend_cpu(params);
  }
  return out;
}

}  // namespace
}  // namespace attnpatch::ops

#ifndef ATTNPATCH_OPS_ON_CUDA
STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "blur_and_blend(Tensor x0, Tensor saliency, float sigma, float threshold=1.0, "
      "int kernel_size=9) -> Tensor");
  m.def(
      "_check_blur_and_blend(Tensor x0, Tensor saliency, float sigma, float threshold=1.0, int "
      "kernel_size=9, *, bool wide=False) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(attnpatch, CompositeExplicitAutograd, m) {
  m.impl("_check_blur_and_blend", TORCH_BOX(&attnpatch::ops::check_blur_and_blend));
}
#endif

STABLE_TORCH_LIBRARY_IMPL(attnpatch, ATTNPATCH_DISPATCH_KEY, m) {
  m.impl("blur_and_blend", TORCH_BOX(&attnpatch::ops::blur_and_blend));
}
