// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cpu/arena.h"

#include <hwy/aligned_allocator.h>
#ifdef __MINGW32__
#include <pthread.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace attnpatch::kernels {
namespace {

constexpr int64_t kAlignment = 16;          // in floats: a line of memory, the longest vector
constexpr int64_t kLeastFloats = 16 << 10;  // of a block

}  // namespace

float* Arena::take(int64_t count) {
  count = (count + kAlignment - 1) / kAlignment * kAlignment;
  if (blocks_.empty() || blocks_.back().size - blocks_.back().used < count) allocate(count);
  Block& block = blocks_.back();
  block.used += count;
  return block.memory.get() + block.used - count;
}

int64_t Arena::held() const {
  int64_t floats = 0;
  for (const Block& block : blocks_) floats += block.size;
  return floats;
}

// Nothing moves: pieces that were taken stay where they are. The first block is as large as all
// were together before, so that one is enough.
void Arena::allocate(int64_t size) {
  Block block;
  block.size = std::max({size, kLeastFloats, blocks_.empty() ? most_ : 0});
  block.memory = hwy::AllocateAligned<float>(static_cast<size_t>(block.size));
  if (!block.memory) throw std::bad_alloc();
  blocks_.push_back(std::move(block));
  most_ = std::max(most_, held());
}

void Arena::give_back(size_t blocks, int64_t used) {
  if (blocks > 0) {
    blocks_.resize(blocks);
    blocks_.back().used = used;
    return;
  }
  if (most_ > kKeptFloats) most_ = 0;
  if (blocks_.size() == 1 && most_ > 0 && blocks_.back().size == most_) {
    blocks_.back().used = 0;
  } else {
    blocks_.clear();
  }
}

Arena::Scope::Scope(Arena& arena)
    : arena_(&arena),
      blocks_(arena.blocks_.size()),
      used_(arena.blocks_.empty() ? 0 : arena.blocks_.back().used) {
  // A block of which nothing is in use does not count: it may make room for a larger one.
  if (blocks_ == 1 && used_ == 0) blocks_ = 0;
}

Arena::Scope::~Scope() { arena_->give_back(blocks_, used_); }

#ifdef __MINGW32__
// GCC for Windows destroys a thread's objects when their memory is gone already (its bug 83562).
Arena& thread_arena() {
  static const pthread_key_t key = [] {
    pthread_key_t made;
    if (pthread_key_create(&made, [](void* arena) { delete static_cast<Arena*>(arena); }) != 0) {
      throw std::bad_alloc();
    }
    return made;
  }();
  auto* arena = static_cast<Arena*>(pthread_getspecific(key));
  if (arena == nullptr) {
    arena = new Arena;
    pthread_setspecific(key, arena);
  }
  return *arena;
}
#else
Arena& thread_arena() {
  thread_local Arena arena;
  return arena;
}
#endif

}  // namespace attnpatch::kernels
