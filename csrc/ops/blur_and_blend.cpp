// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/blur_and_blend.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "ops/arguments.h"
#include "ops/backend.h"

namespace attnpatch {
namespace {

using torch::headeronly::ScalarType;

void check_saliency(const Tensor& saliency, const Tensor& x0) {
  const bool empty = x0.numel() == 0;
  STD_TORCH_CHECK(
      saliency.dim() == 3 && saliency.size(0) == x0.size(0) && (empty || saliency.numel() > 0) &&
          saliency.scalar_type() == ScalarType::Float && is_beside(saliency, x0),
      "saliency: got ", shape_of(saliency), ", expected float32 (", x0.size(0),
      ", rows, columns) on the device of x0, at least one of each, for x0 ", shape_of(x0));
}

Tensor blur_and_blend(const Tensor& x0, const Tensor& saliency, double sigma, double threshold,
                      int64_t kernel_size) {
  STD_TORCH_CHECK(x0.dim() == 4, "x0: got ", shape_of(x0),
                  ", expected (batch, channels, height, width)");
  check_device("x0", x0);
  check_saliency(saliency, x0);
  STD_TORCH_CHECK(sigma >= 0.0, "sigma: got ", sigma, ", expected a number of at least 0");
  STD_TORCH_CHECK(kernel_size >= 1 && kernel_size % 2 == 1, "kernel_size: got ", kernel_size,
                  ", expected an odd number of at least 1");

  const Tensor coarse = torch::stable::contiguous(saliency);
  BlurAndBlendParams params;
  params.kind = kind_of("x0", x0);
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
  params.taps = gaussian_taps(sigma, kernel_size / 2);
  params.parallel_for = parallel_for;
  if constexpr (kOnCuda) {
    const OnDevice device(x0);
    blur_and_blend_cuda(params, device.stream());
  } else {
    blur_and_blend_cpu(params);
  }
  return out;
}

}  // namespace
}  // namespace attnpatch

#ifndef ATTNPATCH_OPS_ON_CUDA
STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "blur_and_blend(Tensor x0, Tensor saliency, float sigma, float threshold=1.0, "
      "int kernel_size=9) -> Tensor");
}
#endif

STABLE_TORCH_LIBRARY_IMPL(attnpatch, ATTNPATCH_DISPATCH_KEY, m) {
  m.impl("blur_and_blend", TORCH_BOX(&attnpatch::blur_and_blend));
}
