// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Scratch memory of the CPU kernels: taken piece by piece, given back all at once.

#pragma once

#include <hwy/aligned_allocator.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace attnpatch::kernels {

// What a thread keeps between calls, at most: 16 MiB. More is given back when a kernel ends.
inline constexpr int64_t kKeptFloats = int64_t{4} << 20;

class Arena {
 public:
  // Memory for so many floats, aligned for any vector, until the scope ends in which it was taken.
  // Throws std::bad_alloc.
  float* take(int64_t count);

  // How many floats it holds, in use or kept.
  int64_t held() const;

  // Gives back, when it ends, what was taken from an arena since it began. Scopes may be nested.
  class Scope {
   public:
    explicit Scope(Arena& arena);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

    float* take(int64_t count) { return arena_->take(count); }

   private:
    Arena* arena_;
    size_t blocks_;
    int64_t used_;
  };

 private:
  struct Block {
    hwy::AlignedFreeUniquePtr<float[]> memory;
    int64_t size = 0, used = 0;
  };

  void allocate(int64_t size);
  void give_back(size_t blocks, int64_t used);

  std::vector<Block> blocks_;  // the last is the one that pieces are taken from
  int64_t most_ = 0;           // floats that it ever held at a time
};

// That of the calling thread.
Arena& thread_arena();

}  // namespace attnpatch::kernels
