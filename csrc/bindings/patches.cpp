// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "bindings/core.h"

namespace attnpatch {

void bind_patches(pybind11::module_&) {}

}  // namespace attnpatch
