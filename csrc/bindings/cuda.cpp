// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <pybind11/pybind11.h>

#include "kernels/cuda/blur_and_blend_plan.h"
#include "kernels/cuda/branch_attention_plan.h"
#include "kernels/cuda/refusal.h"

// Loading it makes the operators of _core, which must be there, use their CUDA kernels.
PYBIND11_MODULE(_cuda, m) {
  namespace device = attnpatch::kernels::device;
  namespace py = pybind11;
  m.doc() = "The operators' CUDA kernels. The numbers are the largest that they take.";
  m.attr("head_size") = device::kMostSize;
  m.attr("branches") = device::kMostBranches;
  m.attr("kernel_size") = 2 * device::kMostTaps - 1;
  m.attr("grid") = device::kMostBlocks;
  m.def("refusal", &attnpatch::kernels::cuda_refusal, py::arg("device"),
        "Say why these kernels cannot run on a CUDA device; empty: they can.");
}
