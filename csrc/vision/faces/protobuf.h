// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Protocol buffers at the level of the wire: a message is a list of fields, each a number, a type
// and a value. Enough to look into a file and to put one of its parts anew; every length is
// checked.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace attnpatch::vision::faces::protobuf {

using Bytes = std::span<const uint8_t>;

enum class Wire : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// Goes through the fields of one message. Throws std::invalid_argument where it is cut or is none.
class Reader {
 public:
  explicit Reader(Bytes message) : rest_(message) {}

  // Moves to the next field; false at the end.
  bool next();

  uint32_t field() const { return field_; }
  Wire wire() const { return wire_; }
  bool is(uint32_t field, Wire wire) const { return field_ == field && wire_ == wire; }
  uint64_t number() const { return number_; }  // of kVarint
  Bytes bytes() const { return bytes_; }       // of kBytes, kFixed32 and kFixed64
  Bytes whole() const { return whole_; }       // tag, length and value

 private:
  Bytes rest_, bytes_, whole_;
  uint32_t field_ = 0;
  Wire wire_ = Wire::kVarint;
  uint64_t number_ = 0;
};

// A list of whole numbers, one value a field or many of them packed into one: adds the current
// field's. Throws std::invalid_argument for a field of another type.
void append_numbers(const Reader& reader, std::vector<int64_t>& numbers);

void write_varint(uint64_t value, std::vector<uint8_t>& out);
void write_number(uint32_t field, uint64_t value, std::vector<uint8_t>& out);
void write_bytes(uint32_t field, Bytes value, std::vector<uint8_t>& out);
void write_raw(Bytes value, std::vector<uint8_t>& out);

}  // namespace attnpatch::vision::faces::protobuf
