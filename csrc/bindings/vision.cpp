// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <pybind11/pybind11.h>

PYBIND11_MODULE(_vision, m) { m.doc() = "Pictures: numpy in and out."; }
