// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The same values as float32, for the CPU's kernels, and in a type of CUDA.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <functional>
#include <random>
#include <type_traits>
#include <vector>

#include "kernels/views.h"

namespace attnpatch {

template <typename T>
constexpr ScalarKind kind_of() {
  if constexpr (std::is_same_v<T, __half>) return ScalarKind::kFloat16;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return ScalarKind::kBFloat16;
  return ScalarKind::kFloat32;
}

template <typename T>
class Values {
 public:
  explicit Values(int64_t count, std::mt19937* generator = nullptr) : floats_(count, NAN) {
    memory_.resize(static_cast<size_t>(count) * sizeof(T) / 16 + 1);
    if (generator == nullptr) return;
    std::normal_distribution<float> normal(0.0f, 1.2f);
    for (int64_t i = 0; i < count; ++i) {
      typed()[i] = static_cast<T>(normal(*generator));
      floats_[i] = static_cast<float>(typed()[i]);
    }
  }

  float* floats() { return floats_.data(); }
  T* typed() { return reinterpret_cast<T*>(memory_.data()); }

  // Largest difference between the two forms.
  double difference() {
    double worst = 0.0;
    for (size_t i = 0; i < floats_.size(); ++i) {
      const double error = std::abs(floats_[i] - static_cast<float>(typed()[i]));
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
    return worst;
  }

 private:
  std::vector<float> floats_;
  std::vector<uint4> memory_;
};

// Results of up to about 3 are rounded to so many bits.
template <typename T>
constexpr double rounding() {
  if constexpr (std::is_same_v<T, __half>) return 4e-3;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return 3e-2;
  return 4e-6;
}

inline void run_alone(int64_t count, const std::function<void(int64_t, int64_t)>& body) {
  body(0, count);
}

}  // namespace attnpatch
