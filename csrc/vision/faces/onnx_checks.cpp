// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/onnx_checks.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace attnpatch::vision::faces::onnx {
namespace {

using protobuf::Bytes;
using protobuf::Reader;
using protobuf::Wire;

constexpr int64_t kMaxDims = 6;
constexpr int64_t kMaxSide = 1 << 24;
constexpr int64_t kMaxCount = int64_t{1} << 36;
constexpr int64_t kMaxWindow = 1 << 7;   // of a kernel, stride, dilation or padding
constexpr int64_t kMaxNumber = 1 << 24;  // of any other whole number

std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

// Bytes of a value of each type that OpenCV reads; 0: none of those.
int64_t value_size(int64_t type) {
  switch (type) {
    case 1:  // float
    case 6:  // int32
      return 4;
    case 7:   // int64
    case 11:  // double
      return 8;
    case 10:  // float16
      return 2;
    default:
      return 0;
  }
}

// Which field holds the values of a type where they are not raw.
uint32_t typed_field(int64_t type) {
  switch (type) {
    case 1:
      return 4;
    case 7:
      return 7;
    case 11:
      return 10;
    default:
      return 5;
  }
}

struct Stored {
  std::vector<int64_t> dims;
  int64_t type = 0;
  bool external = false;
  int64_t raw = -1;  // bytes
  Bytes raw_bytes;
  std::array<int64_t, 12> typed{};
};

int64_t count_typed(const Reader& reader, int64_t size) {
  if (reader.wire() == Wire::kVarint) return 1;
  if (reader.wire() != Wire::kBytes) return static_cast<int64_t>(reader.bytes().size()) / size;
  if (reader.field() == 4 || reader.field() == 10) {
    return static_cast<int64_t>(reader.bytes().size()) / size;
  }
  return std::count_if(reader.bytes().begin(), reader.bytes().end(),
                       [](uint8_t byte) { return byte < 0x80; });
}

Stored read_tensor(Bytes bytes) {
  Stored tensor;
  Reader reader(bytes);
  while (reader.next()) {
    if (reader.field() == 1) {
      protobuf::append_numbers(reader, tensor.dims);
    } else if (reader.is(2, Wire::kVarint)) {
      tensor.type = static_cast<int32_t>(reader.number());
    } else if (reader.is(9, Wire::kBytes)) {
      tensor.raw_bytes = reader.bytes();
      tensor.raw = static_cast<int64_t>(reader.bytes().size());
    } else if (reader.field() == 13 || (reader.field() == 14 && reader.number() != 0)) {
      tensor.external = true;
    } else if (reader.field() < tensor.typed.size()) {
      tensor.typed[reader.field()] += count_typed(reader, reader.field() == 10 ? 8 : 4);
    }
  }
  return tensor;
}

// The values of a short list of whole numbers.
std::vector<int64_t> read_numbers(const Stored& tensor, Bytes bytes) {
  std::vector<int64_t> numbers;
  const int64_t size = value_size(tensor.type);
  if ((tensor.type != 6 && tensor.type != 7) || bytes.size() > 1024) return numbers;
  for (int64_t i = 0; i + size <= tensor.raw; i += size) {  // little-endian, by the standard
    uint64_t value = 0;
    for (int64_t b = 0; b < size; ++b) {
      value |= uint64_t{tensor.raw_bytes[static_cast<size_t>(i + b)]} << (8 * b);
    }
    numbers.push_back(size == 8 ? static_cast<int64_t>(value) : static_cast<int32_t>(value));
  }
  Reader reader(bytes);
  while (reader.next()) {
    if (reader.field() == typed_field(tensor.type)) protobuf::append_numbers(reader, numbers);
  }
  return numbers;
}

void check_attribute_numbers(std::string_view name, const std::vector<int64_t>& numbers) {
  if (numbers.size() > 16) refuse("its attribute " + std::string(name) + " has too many numbers");
  const bool window = name == "strides" || name == "dilations" || name == "kernel_shape";
  int64_t low = -kMaxNumber, high = kMaxNumber;
  if (window) low = 1, high = kMaxWindow;
  if (name == "pads" || name == "output_padding") low = 0, high = kMaxWindow;
  if (name == "group") low = 1;
  if (name == "axis" || name == "axes" || name == "perm") low = -kMaxDims, high = kMaxDims;
  for (const int64_t number : numbers) {
    // The end of a slice may be "as far as it goes".
    const bool far = name == "ends" && number > 0;
    if ((number < low || number > high) && !far) {
      refuse("its attribute " + std::string(name) + " is " + std::to_string(number));
    }
  }
}

void read_attribute(Bytes attribute, Node& node) {
  std::string_view name;
  std::vector<int64_t> numbers;
  Reader reader(attribute);
  while (reader.next()) {
    if (reader.is(1, Wire::kBytes)) name = as_text(reader.bytes());
    if (reader.is(5, Wire::kBytes)) node.value = check_tensor(reader.bytes());
    if (reader.field() == 3 || reader.field() == 8) protobuf::append_numbers(reader, numbers);
    const bool graph = reader.field() == 6 || reader.field() == 11;
    const bool sparse = reader.field() == 22 || reader.field() == 23 || reader.field() == 10;
    if (graph || sparse) refuse("it has graphs or sparse tensors for attributes");
  }
  check_attribute_numbers(name, numbers);
  if (name == "kernel_shape") node.kernel_shape = numbers;
}

}  // namespace

Tensor check_tensor(Bytes bytes) {
  const Stored tensor = read_tensor(bytes);
  if (tensor.external) refuse("it keeps weights in other files");
  const int64_t size = value_size(tensor.type);
  if (size == 0) refuse("it holds tensors of type " + std::to_string(tensor.type));
  if (static_cast<int64_t>(tensor.dims.size()) > kMaxDims) refuse("a tensor has too many sides");
  int64_t count = 1;
  for (const int64_t side : tensor.dims) {
    const bool empty_list = side == 0 && tensor.dims.size() == 1;
    if ((side < 1 && !empty_list) || side > kMaxSide || count > kMaxCount) {
      refuse("a tensor has a side of " + std::to_string(side));
    }
    count *= side;
  }
  const int64_t typed = tensor.typed[typed_field(tensor.type)];
  const bool whole = tensor.raw >= 0 ? tensor.raw == count * size && typed == 0 : typed == count;
  if (!whole) refuse("a tensor does not hold as many values as its sizes say");
  return {tensor.dims, read_numbers(tensor, bytes)};
}

Node read_node(Bytes bytes) {
  Node node;
  std::string_view domain;
  Reader reader(bytes);
  while (reader.next()) {
    if (reader.wire() != Wire::kBytes) continue;
    const std::string_view text = as_text(reader.bytes());
    if (reader.field() == 1) node.inputs.emplace_back(text);
    if (reader.field() == 2) node.outputs.emplace_back(text);
    if (reader.field() == 4) node.operation = text;
    if (reader.field() == 5) read_attribute(reader.bytes(), node);
    if (reader.field() == 7) domain = text;
  }
  if (!domain.empty() && domain != "ai.onnx") {
    refuse("it has operations of " + std::string(domain.substr(0, 40)));
  }
  return node;
}

}  // namespace attnpatch::vision::faces::onnx
