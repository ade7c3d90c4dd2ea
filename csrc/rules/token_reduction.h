// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <vector>

#include "rules/grid.h"

namespace attnpatch::rules {

// A window or stride of `tokens`, any real number, in whole numbers. One dimension: ⌈tokens⌉ along
// all tokens of the grid. Two: ⌈√tokens⌉ rows, and columns so that both together hold `tokens`.
// Each at least 1 and at most what the grid has. Throws std::invalid_argument for a NaN, another
// count of dimensions or an empty grid.
std::vector<int> pool_extent(double tokens, int dimensions, GridSize grid);

// The tile that cuts the grid into as few tiles as keep each side at most `size`, all as equal as
// can be. Throws std::invalid_argument for a size below 1 or an empty grid.
GridSize tile_shape(GridSize grid, int size);

// How far the first tiles reach out of the grid: drawn evenly from what the tiles hold beyond it,
// always the same for the same seed, timestep and layer.
GridSize tile_offset(GridSize grid, GridSize tile, uint64_t seed, double timestep, uint64_t layer);

}  // namespace attnpatch::rules
