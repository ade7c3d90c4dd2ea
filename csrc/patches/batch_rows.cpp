// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "patches/batch_rows.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace attnpatch {

int BatchLayout::chunk_size() const {
  const int count = static_cast<int>(chunks.size());
  if (count == 0) throw std::invalid_argument("chunks: expected at least one, got none");
  if (batch < 1 || batch % count != 0) {
    throw std::invalid_argument("batch: expected equal chunks, got " + std::to_string(batch) +
                                " rows for " + std::to_string(count) + " chunks");
  }
  const int size = batch / count;
  if (!samples.empty() && static_cast<int>(samples.size()) != size) {
    throw std::invalid_argument("samples: expected one for each of the " + std::to_string(size) +
                                " rows of a chunk, got " + std::to_string(samples.size()));
  }
  for (int sample : samples) {
    if (sample < 0) {
      throw std::invalid_argument("samples: expected 0 or more, got " + std::to_string(sample));
    }
  }
  return size;
}

Role chunk_role(int kind, const std::map<int, Role>& declared) {
  const auto it = declared.find(kind);
  if (it != declared.end()) return it->second;
  return kind == 0 ? Role::kCond : Role::kUncond;
}

std::vector<Role> row_roles(const BatchLayout& layout, const std::map<int, Role>& declared) {
  const int size = layout.chunk_size();
  std::vector<Role> roles;
  for (int kind : layout.chunks) {
    roles.insert(roles.end(), static_cast<std::size_t>(size), chunk_role(kind, declared));
  }
  return roles;
}

std::vector<std::int64_t> picture_rows(const BatchLayout& layout, int count, const char* what) {
  const int size = layout.chunk_size();
  std::vector<std::int64_t> rows(static_cast<std::size_t>(layout.batch), 0);
  if (count == 1) return rows;
  const auto& samples = layout.samples;
  const bool fits =
      samples.empty() ? count == size : *std::max_element(samples.begin(), samples.end()) < count;
  if (!fits) {
    const std::string several = size == 1 ? "" : " or " + std::to_string(size);
    throw std::invalid_argument(
        std::string(what) + ": " + std::to_string(count) + " pictures do not fit a batch of " +
        std::to_string(layout.batch) + " rows in " + std::to_string(layout.chunks.size()) +
        " chunks; expected 1" +
        (samples.empty() ? several + ", or samples that name the picture of each row of a chunk"
                         : " or more than the highest of samples"));
  }
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const std::size_t sample = row % static_cast<std::size_t>(size);
    rows[row] = samples.empty() ? static_cast<std::int64_t>(sample) : samples[sample];
  }
  return rows;
}

std::vector<std::int64_t> key_rows(const BatchLayout& layout, const std::map<int, Role>& declared,
                                   int pictures, int negatives) {
  if (pictures < 1) {
    throw std::invalid_argument("pictures: expected at least 1, got " + std::to_string(pictures));
  }
  if (negatives != 0 && negatives != 1 && negatives != pictures) {
    throw std::invalid_argument("uncond: expected 0, 1 or " + std::to_string(pictures) +
                                " pictures, got " + std::to_string(negatives));
  }
  const std::vector<Role> roles = row_roles(layout, declared);
  std::vector<std::int64_t> rows = picture_rows(layout, pictures, "image prompt");
  for (std::size_t b = 0; b < rows.size(); ++b) {
    if (roles[b] == Role::kOff || (roles[b] == Role::kUncond && negatives == 0)) {
      rows[b] = -1;
    } else if (roles[b] == Role::kUncond) {
      rows[b] = pictures + (negatives == 1 ? 0 : rows[b]);
    }
  }
  return rows;
}

}  // namespace attnpatch
