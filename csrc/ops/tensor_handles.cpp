// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The bridge between Python's torch.Tensor and torch::stable::Tensor. Converting directly needs a
// header of torch 2.14; a tensor that passes through an operator is converted by every torch, so
// these two carry it as the address of a handle. For the bindings alone: each handle is to be
// taken exactly once. Composite kernels, so that the tensor keeps its identity, its gradient
// history and its subclass, on every device.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "ops/torch_errors.h"

namespace attnpatch::ops {
namespace {

using torch::stable::Tensor;

int64_t tensor_to_handle(const Tensor& tensor) {
  AtenTensorHandle handle = nullptr;
  ATTNPATCH_CHECK_TORCH(aoti_torch_new_tensor_handle(tensor.get(), &handle));
  return reinterpret_cast<int64_t>(handle);
}

Tensor tensor_from_handle(int64_t handle) {
  STD_TORCH_CHECK(handle != 0, "handle: expected the address of a tensor, given 0");
  // NOLINTNEXTLINE(performance-no-int-to-ptr): operators carry no pointers, only integers.
  return Tensor(reinterpret_cast<AtenTensorHandle>(handle));
}

}  // namespace
}  // namespace attnpatch::ops

STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def("_tensor_to_handle(Tensor tensor) -> int");
  m.def("_tensor_from_handle(int handle) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(attnpatch, CompositeImplicitAutograd, m) {
  m.impl("_tensor_to_handle", TORCH_BOX(&attnpatch::ops::tensor_to_handle));
  m.impl("_tensor_from_handle", TORCH_BOX(&attnpatch::ops::tensor_from_handle));
}
