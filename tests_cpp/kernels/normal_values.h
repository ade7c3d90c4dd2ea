// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Inputs of the kernels' tests.

#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace attnpatch::kernels {

inline std::vector<float> normal_values(int64_t count, std::mt19937& generator,
                                        double scale = 1.0) {
  std::normal_distribution<double> normal(0.0, scale);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(normal(generator));
  return values;
}

}  // namespace attnpatch::kernels
