// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "bindings/core.h"
#include "bindings/tensor_caster.h"
#include "ops/branch_set.h"

namespace attnpatch::bindings {

void bind_ops(pybind11::module_& m) {
  namespace py = pybind11;
  using ops::BranchSet;
  using torch::stable::Tensor;

  py::class_<BranchSet>(m, "BranchSet",
                        "Image branches of one layer, kept for the operator `attend`.")
      .def(py::init<std::vector<Tensor>, std::vector<Tensor>, std::vector<Tensor>, Tensor,
                    std::optional<Tensor>, int64_t>(),
           py::arg("k"), py::arg("v"), py::arg("rows"), py::arg("weights"), py::arg("masks"),
           py::arg("shared_softmax"))
      .def_property_readonly("handle", &BranchSet::handle, "The number that `attend` takes.");
}

}  // namespace attnpatch::bindings
