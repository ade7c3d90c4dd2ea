// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cuda/blur_and_blend.cuh"
#include "kernels/cuda/launch.h"

namespace attnpatch::kernels {

void blur_and_blend_cuda(const BlurAndBlendParams& params, void* stream) {
  if (params.batch * params.channels * params.height * params.width == 0) return;
  const device::BlurAndBlendArguments a = device::arguments_of(params);
  const dim3 grid(
      static_cast<unsigned>((a.width + device::kPatchWidth - 1) / device::kPatchWidth),
      static_cast<unsigned>((a.height + device::kPatchHeight - 1) / device::kPatchHeight),
      static_cast<unsigned>(a.batch * a.channels));
  device::with_dtype(params.dtype, [&]<class T>() {
    device::launch("blur_and_blend", &device::blur_and_blend<T>, grid, device::kThreads,
                   device::shared_bytes(a), static_cast<cudaStream_t>(stream), a);
  });
}

}  // namespace attnpatch::kernels
