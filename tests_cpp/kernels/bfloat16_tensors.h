// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// A problem's tensors in bf16.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <vector>

#include "kernels/views.h"

namespace attnpatch::kernels {

class BFloat16Tensors {
 public:
  // The view is then of the values in bf16, and they are what rounding leaves of them, so that a
  // formula is of what the kernel sees.
  void round(std::vector<float>& values, AttentionView& view) {
    std::vector<uint16_t>& copy = copies_.emplace_back();
    for (float& value : values) {
      uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof(bits));
      if (value == value) bits += 0x7FFF + (bits >> 16 & 1);
      copy.push_back(static_cast<uint16_t>(bits >> 16));
      value = as_float(copy.back());
    }
    view.data = copy.data();
  }

  // The same of a problem's queries, keys, values and results; the kernel is told of bf16.
  template <typename Problem, typename Params>
  void round_all(Problem& problem, Params& p) {
    p.dtype = Dtype::kBFloat16;
    round(problem.q, p.q);
    round(problem.k, p.k);
    round(problem.v, p.v);
    round(problem.out, p.out);
  }

  // What a kernel has written there.
  static void read(const AttentionView& view, std::vector<float>& values) {
    const auto* from = static_cast<const uint16_t*>(view.data);
    for (size_t i = 0; i < values.size(); ++i) values[i] = as_float(from[i]);
  }

 private:
  static float as_float(uint16_t half) {
    const uint32_t bits = uint32_t{half} << 16;
    float value = 0.0f;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

  std::list<std::vector<uint16_t>> copies_;
};

}  // namespace attnpatch::kernels
