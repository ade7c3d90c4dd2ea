// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What an ONNX file says about its network, checked before OpenCV reads it: sizes that do not fit
// their tensors, factors of zero or other operations than those of face networks are refused, since
// OpenCV takes them on trust. And the size of its input written into the file: OpenCV 4.6 refuses
// some networks whose input may have any size.

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace attnpatch::vision::faces {

struct OnnxFile {
  std::string input;                // its name
  std::vector<int64_t> input_dims;  // -1: any size
  std::vector<std::string> outputs;
  bool prepares_input = false;  // it begins with a subtraction and a product of its own
};

// Throws std::invalid_argument for what is no ONNX file, or none that may be trusted.
OnnxFile read_onnx(std::span<const uint8_t> file);

// The file with other sizes of its input. Throws as read_onnx.
std::vector<uint8_t> with_input_dims(std::span<const uint8_t> file, std::span<const int64_t> dims);

}  // namespace attnpatch::vision::faces
