// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Memory that kernels see, at multiples of 16 bytes: of this machine, where device code is
// emulated.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace attnpatch::kernels {

class HostMemory {
 public:
  explicit HostMemory(size_t bytes) : pieces_(bytes / sizeof(Piece) + 1) {}

  void* data() { return pieces_.data(); }
  void write(const void* from, size_t bytes) { std::memcpy(pieces_.data(), from, bytes); }
  void read(void* to, size_t bytes) const { std::memcpy(to, pieces_.data(), bytes); }

 private:
  struct alignas(16) Piece {
    uint64_t bits[2];
  };
  std::vector<Piece> pieces_;
};

}  // namespace attnpatch::kernels
