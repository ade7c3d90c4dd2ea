// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <pybind11/pybind11.h>

namespace attnpatch::bindings {

void bind_nets(pybind11::module_& m);
void bind_ops(pybind11::module_& m);
void bind_rules(pybind11::module_& m);

}  // namespace attnpatch::bindings
