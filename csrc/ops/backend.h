// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Whose kernels the operators call: those of the CPU in _core; those of CUDA in _cuda, for which
// the operators' files are compiled a second time.

#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "ops/arguments.h"

#ifdef ATTNPATCH_OPS_ON_CUDA
#define ATTNPATCH_DISPATCH_KEY CUDA
#else
#define ATTNPATCH_DISPATCH_KEY CPU
#endif

namespace attnpatch::ops {

#ifdef ATTNPATCH_OPS_ON_CUDA
constexpr bool kOnCuda = true;
#else
constexpr bool kOnCuda = false;
#endif

// While it lives, the CUDA device of a tensor is the current one. Only _cuda defines it.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& t);

  // torch's current stream there, a cudaStream_t.
  void* stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

}  // namespace attnpatch::ops
