// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The arguments by which operators are told how a token grid is cut and pooled.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/tiling.h"

namespace attnpatch::ops {

// "(2, 3)", for messages.
std::string text_of(const std::vector<int64_t>& numbers);

// Each two numbers, down and across; an error names the argument.
kernels::Tiling tiling_of(const std::vector<int64_t>& grid, const std::vector<int64_t>& tile,
                          const std::vector<int64_t>& offset);

// One number along a tile's tokens, or two along its rows and columns; an error names the argument.
kernels::PoolStride pool_stride_of(const std::string& name, const std::vector<int64_t>& numbers);

}  // namespace attnpatch::ops
