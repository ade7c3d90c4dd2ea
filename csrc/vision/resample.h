// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// One axis of the antialiased bicubic resize (a = -0.5) of 8-bit pictures that Pillow defines and
// CLIP was trained on:
//
//   out[i] = clip8((2^21 + sum_j w_ij in[j]) >> 22),  w_ij = round(2^22 cubic((j + 1/2 - c_i) / s)
//   / W_i)
//
// with c_i = (i + 1/2) source / target, s = max(source / target, 1) and W_i the sum of the cubics.
// Equal to Pillow bit for bit.

#pragma once

#include <cstdint>
#include <vector>

namespace attnpatch::vision {

// The weights of outputs begin … end - 1, each an array of `width` 22-bit numbers, split as
// high * 2^12 + low so that sums of 16-bit products are exact in 32 bits (and one SIMD
// instruction).
struct ResampleTable {
  int64_t source_begin = 0;        // the inputs from here …
  int64_t source_count = 0;        // … that any output reads
  int64_t width = 0;               // weights of an output: a multiple of 8, padded with zeros
  std::vector<int64_t> first;      // the first input of each output, from source_begin
  std::vector<int16_t> high, low;  // (outputs, width)

  int64_t outputs() const { return static_cast<int64_t>(first.size()); }
  // How many inputs, from source_begin, the padded weights touch.
  int64_t padded_count() const { return source_count + width; }
};

// Resizing `source` pixels to `target`, of which outputs begin … end - 1 are wanted.
ResampleTable bicubic_table(int64_t source, int64_t target, int64_t begin, int64_t end);

// The 8-bit result of output i of a line that starts at source_begin and has padded_count() values.
inline int resample_at(const ResampleTable& table, const int16_t* line, int64_t i) {
  const int16_t* in = line + table.first[i];
  const int16_t* high = table.high.data() + i * table.width;
  const int16_t* low = table.low.data() + i * table.width;
  int32_t high_sum = 0, low_sum = 0;
  for (int64_t j = 0; j < table.width; ++j) {
    high_sum += in[j] * high[j];
    low_sum += in[j] * low[j];
  }
  const int64_t sum = int64_t{high_sum} * 4096 + low_sum + (1 << 21);
  const int64_t value = sum >> 22;
  return static_cast<int>(value < 0 ? 0 : (value > 255 ? 255 : value));
}

}  // namespace attnpatch::vision
