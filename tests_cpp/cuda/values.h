// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The same values as float32, for the CPU's kernels, and in a type of CUDA.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/views.h"

namespace attnpatch::kernels {

template <typename T>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<T, __half>) return Dtype::kFloat16;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return Dtype::kBFloat16;
  return Dtype::kFloat32;
}

template <typename T, typename Memory>
class Values {
 public:
  explicit Values(int64_t count, std::mt19937* generator = nullptr)
      : floats_(static_cast<size_t>(count), NAN), memory_(static_cast<size_t>(count) * sizeof(T)) {
    if (generator == nullptr) return;
    std::normal_distribution<float> normal(0.0f, 1.2f);
    std::vector<T> typed;
    for (float& value : floats_) {
      typed.push_back(static_cast<T>(normal(*generator)));
      value = static_cast<float>(typed.back());
    }
    memory_.write(typed.data(), typed.size() * sizeof(T));
  }
  explicit Values(std::vector<float> floats)
      : floats_(std::move(floats)), memory_(floats_.size() * sizeof(T)) {
    std::vector<T> typed(floats_.size());
    for (size_t i = 0; i < typed.size(); ++i) {
      typed[i] = static_cast<T>(floats_[i]);
      floats_[i] = static_cast<float>(typed[i]);
    }
    memory_.write(typed.data(), typed.size() * sizeof(T));
  }

  float* floats() { return floats_.data(); }
  T* typed() { return static_cast<T*>(memory_.data()); }

  // What a kernel has written, as float32.
  std::vector<float> read() const {
    std::vector<T> typed(floats_.size());
    memory_.read(typed.data(), typed.size() * sizeof(T));
    std::vector<float> values(typed.size());
    std::transform(typed.begin(), typed.end(), values.begin(),
                   [](T value) { return static_cast<float>(value); });
    return values;
  }

  // Largest difference between the two forms.
  double difference() const {
    const std::vector<float> typed = read();
    double worst = 0.0;
    for (size_t i = 0; i < floats_.size(); ++i) {
      const double error = std::abs(floats_[i] - typed[i]);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
    return worst;
  }

 private:
  std::vector<float> floats_;
  Memory memory_;
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

}  // namespace attnpatch::kernels
