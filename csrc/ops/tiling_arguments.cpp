// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "ops/tiling_arguments.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ops/arguments.h"

namespace attnpatch::ops {
namespace {

bool all_at_least(const std::vector<int64_t>& numbers, int64_t least) {
  return std::all_of(numbers.begin(), numbers.end(), [least](int64_t n) { return n >= least; });
}

void check_pair(const std::string& name, const std::vector<int64_t>& numbers, int64_t least) {
  if (numbers.size() == 2 && all_at_least(numbers, least)) return;
  fail(name, ": expected two numbers of at least ", least, ", got ", text_of(numbers));
}

}  // namespace

std::string text_of(const std::vector<int64_t>& numbers) {
  std::string text = "(";
  for (size_t i = 0; i < numbers.size(); ++i) {
    text.append(i ? ", " : "").append(std::to_string(numbers[i]));
  }
  return text + ")";
}

kernels::Tiling tiling_of(const std::vector<int64_t>& grid, const std::vector<int64_t>& tile,
                          const std::vector<int64_t>& offset) {
  check_pair("grid", grid, 1);
  check_pair("tile", tile, 1);
  check_pair("offset", offset, 0);
  if (offset[0] >= tile[0] || offset[1] >= tile[1]) {
    fail("offset: expected less than the tile ", text_of(tile), ", got ", text_of(offset));
  }
  return {grid[0], grid[1], tile[0], tile[1], offset[0], offset[1]};
}

kernels::PoolStride pool_stride_of(const std::string& name, const std::vector<int64_t>& numbers) {
  if (numbers.empty() || numbers.size() > 2 || !all_at_least(numbers, 1)) {
    fail(name, ": expected one or two numbers of at least 1, got ", text_of(numbers));
  }
  if (numbers.size() == 1) return {true, 1, numbers[0]};
  return {false, numbers[0], numbers[1]};
}

}  // namespace attnpatch::ops
