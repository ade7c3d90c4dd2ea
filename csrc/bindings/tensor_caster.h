// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Lets pybind11 functions take and give torch::stable::Tensor as Python's torch.Tensor.

#pragma once

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "ops/torch_errors.h"

namespace attnpatch::bindings {

struct TensorBridge {
  pybind11::object tensor_type;
  pybind11::object to_handle;
  pybind11::object from_handle;
};

inline const TensorBridge& tensor_bridge() {
  PYBIND11_CONSTINIT static pybind11::gil_safe_call_once_and_store<TensorBridge> storage;
  return storage
      .call_once_and_store_result([] {
        const pybind11::object torch = pybind11::module_::import("torch");
        const pybind11::object ops = torch.attr("ops").attr("attnpatch");
        return TensorBridge{torch.attr("Tensor"), ops.attr("_tensor_to_handle").attr("default"),
                            ops.attr("_tensor_from_handle").attr("default")};
      })
      .get_stored();
}

}  // namespace attnpatch::bindings

namespace pybind11::detail {

template <>
struct type_caster<torch::stable::Tensor> {
  PYBIND11_TYPE_CASTER(torch::stable::Tensor, const_name("torch.Tensor"));

  bool load(handle source, bool) {
    const auto& bridge = attnpatch::bindings::tensor_bridge();
    if (!isinstance(source, bridge.tensor_type)) return false;
    const auto address = bridge.to_handle(source).cast<int64_t>();
    // NOLINTNEXTLINE(performance-no-int-to-ptr): operators carry no pointers, only integers.
    value = torch::stable::Tensor(reinterpret_cast<AtenTensorHandle>(address));
    return true;
  }

  static handle cast(const torch::stable::Tensor& tensor, return_value_policy, handle) {
    AtenTensorHandle handle = nullptr;
    ATTNPATCH_CHECK_TORCH(aoti_torch_new_tensor_handle(tensor.get(), &handle));
    return attnpatch::bindings::tensor_bridge()
        .from_handle(reinterpret_cast<int64_t>(handle))
        .release();
  }
};

}  // namespace pybind11::detail
