// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "ops/tiling_arguments.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace attnpatch {
namespace {

bool all_at_least(const std::vector<int64_t>& numbers, int64_t least) {
  return std::all_of(numbers.begin(), numbers.end(), [least](int64_t n) { return n >= least; });
}

void check_pair(const std::string& name, const std::vector<int64_t>& numbers, int64_t least) {
  STD_TORCH_CHECK(numbers.size() == 2 && all_at_least(numbers, least), name, ": got ",
                  text_of(numbers), ", expected two numbers of at least ", least);
}

}  // namespace

std::string text_of(const std::vector<int64_t>& numbers) {
  std::string text = "(";
  for (size_t i = 0; i < numbers.size(); ++i) text += (i ? ", " : "") + std::to_string(numbers[i]);
  return text + ")";
}

std::string text_of(const Tiling& tiling) {
  return std::to_string(tiling.height) + " x " + std::to_string(tiling.width) + " tokens";
}

Tiling tiling_of(const std::vector<int64_t>& grid, const std::vector<int64_t>& tile,
                 const std::vector<int64_t>& offset) {
  check_pair("grid", grid, 1);
  check_pair("tile", tile, 1);
  check_pair("offset", offset, 0);
  STD_TORCH_CHECK(offset[0] < tile[0] && offset[1] < tile[1], "offset: got ", text_of(offset),
                  ", expected less than the tile ", text_of(tile));
  return {grid[0], grid[1], tile[0], tile[1], offset[0], offset[1]};
}

PoolStride pool_stride_of(const std::string& name, const std::vector<int64_t>& numbers) {
  STD_TORCH_CHECK((numbers.size() == 1 || numbers.size() == 2) && all_at_least(numbers, 1), name,
                  ": got ", text_of(numbers), ", expected one or two numbers of at least 1");
  if (numbers.size() == 1) return {true, 1, numbers[0]};
  return {false, numbers[0], numbers[1]};
}

}  // namespace attnpatch
