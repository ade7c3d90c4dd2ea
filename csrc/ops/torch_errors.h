// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Errors of torch's C functions as exceptions, whatever torch's headers are of.

#pragma once

#include <torch/csrc/stable/library.h>

// Torch has changed the name; the newer one also says what torch said.
#ifdef STABLE_TORCH_ERROR_CODE_CHECK
#define ATTNPATCH_CHECK_TORCH(call) STABLE_TORCH_ERROR_CODE_CHECK(call)
#else
#define ATTNPATCH_CHECK_TORCH(call) TORCH_ERROR_CODE_CHECK(call)
#endif
