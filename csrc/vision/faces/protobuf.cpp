// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/protobuf.h"

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace attnpatch::vision::faces::protobuf {
namespace {

[[noreturn]] void fail() { throw std::invalid_argument("it is cut short or damaged"); }

// The next bytes of `rest`, which loses them.
Bytes take(Bytes& rest, uint64_t count) {
  if (count > rest.size()) fail();
  const Bytes taken = rest.first(static_cast<size_t>(count));
  rest = rest.subspan(static_cast<size_t>(count));
  return taken;
}

uint64_t take_varint(Bytes& rest) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const uint8_t byte = take(rest, 1)[0];
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  fail();
}

}  // namespace

bool Reader::next() {
  if (rest_.empty()) return false;
  const uint8_t* begin = rest_.data();
  const uint64_t tag = take_varint(rest_);
  if (tag >> 3 == 0 || tag >> 32 != 0) fail();
  field_ = static_cast<uint32_t>(tag >> 3);
  wire_ = static_cast<Wire>(tag & 7);
  switch (wire_) {
    case Wire::kVarint:
      number_ = take_varint(rest_);
      break;
    case Wire::kFixed64:
      bytes_ = take(rest_, 8);
      break;
    case Wire::kBytes:
      bytes_ = take(rest_, take_varint(rest_));
      break;
    case Wire::kFixed32:
      bytes_ = take(rest_, 4);
      break;
    default:
      fail();
  }
  whole_ = Bytes(begin, rest_.data());
  return true;
}

void append_numbers(const Reader& reader, std::vector<int64_t>& numbers) {
  if (reader.wire() == Wire::kVarint) {
    numbers.push_back(static_cast<int64_t>(reader.number()));
    return;
  }
  if (reader.wire() != Wire::kBytes) fail();
  Bytes rest = reader.bytes();
  while (!rest.empty()) numbers.push_back(static_cast<int64_t>(take_varint(rest)));
}

void write_varint(uint64_t value, std::vector<uint8_t>& out) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<uint8_t>(value | 0x80));
  out.push_back(static_cast<uint8_t>(value));
}

void write_number(uint32_t field, uint64_t value, std::vector<uint8_t>& out) {
  write_varint(uint64_t{field} << 3 | static_cast<uint8_t>(Wire::kVarint), out);
  write_varint(value, out);
}

void write_bytes(uint32_t field, Bytes value, std::vector<uint8_t>& out) {
  write_varint(uint64_t{field} << 3 | static_cast<uint8_t>(Wire::kBytes), out);
  write_varint(value.size(), out);
  write_raw(value, out);
}

void write_raw(Bytes value, std::vector<uint8_t>& out) {
  out.insert(out.end(), value.begin(), value.end());
}

}  // namespace attnpatch::vision::faces::protobuf
