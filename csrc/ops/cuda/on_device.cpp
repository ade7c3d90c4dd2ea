// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <torch/csrc/stable/library.h>

#include <cstdint>

#include "ops/backend.h"
#include "ops/torch_errors.h"

// torch's headers declare it for those alone that compile against CUDA's.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                             void** ret_stream);

namespace attnpatch::ops {

OnDevice::OnDevice(const Tensor& t) : guard_(t.get_device_index()) {
  ATTNPATCH_CHECK_TORCH(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream_));
}

}  // namespace attnpatch::ops
