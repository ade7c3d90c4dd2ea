// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#pragma once

namespace attnpatch::rules {

// An extent in a token grid: of all of it, of a tile, or from its first row and column on.
struct GridSize {
  int rows = 0, columns = 0;

  bool operator==(const GridSize&) const = default;
};

}  // namespace attnpatch::rules
