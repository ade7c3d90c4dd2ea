// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace attnpatch {

/// How a host's batch is laid out: equal chunks, each of one kind (0 cond, 1 uncond, others as a
/// patch declares), each holding the same samples in the same order.
struct BatchLayout {
  std::vector<int> chunks;
  int batch = 0;
  std::vector<int> samples;  ///< which picture each sample is; empty: 0, 1, 2, …

  /// Rows of one chunk. Throws std::invalid_argument where the numbers do not fit together.
  int chunk_size() const;
};

/// What a patch does for a chunk: its image, its negative image, or nothing.
enum class Role { kCond, kUncond, kOff };

/// Roles of the chunks' kinds: 0 is cond, every other uncond, but where `declared` says otherwise.
Role chunk_role(int kind, const std::map<int, Role>& declared);

/// The role of each row of the batch.
std::vector<Role> row_roles(const BatchLayout& layout, const std::map<int, Role>& declared);

/// Which of `count` per-picture values serves each row of the batch: all rows share one, or a row
/// takes the one of its sample's picture. Throws std::invalid_argument, naming `what`, where they
/// do not fit.
std::vector<std::int64_t> picture_rows(const BatchLayout& layout, int count, const char* what);

/// Which row of the image keys serves each row of the batch: the keys hold `pictures` rows for
/// cond, then `negatives` for uncond (0, 1 or as many). -1: none.
std::vector<std::int64_t> key_rows(const BatchLayout& layout, const std::map<int, Role>& declared,
                                   int pictures, int negatives);

}  // namespace attnpatch
