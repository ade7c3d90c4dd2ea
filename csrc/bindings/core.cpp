// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "bindings/core.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "kernels/targets.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The engine of attnpatch: operators, adapter networks and the rules of patching.";
  m.def("cpu_targets", &attnpatch::kernels::cpu_targets,
        "Instruction sets that the kernels can use on this machine, best first.");
  m.def("force_cpu_target", &attnpatch::kernels::force_cpu_target, pybind11::arg("name"),
        "Make the kernels use one of `cpu_targets()`; an empty name gives the choice back.");
  attnpatch::bindings::bind_nets(m);
  attnpatch::bindings::bind_ops(m);
  attnpatch::bindings::bind_rules(m);
}
