// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Whether the kernels of this build can run on a device at all.

#pragma once

#include <string>

namespace attnpatch::kernels {

// Why they cannot run on this CUDA device, in words; empty: they can. Never throws a CUDA error.
std::string cuda_refusal(int device);

}  // namespace attnpatch::kernels
