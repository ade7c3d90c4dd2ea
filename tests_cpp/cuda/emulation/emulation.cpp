// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "kernels/cuda/device.cuh"

namespace attnpatch::kernels::device {
namespace {

struct Meeting {
  int waiting = 0;
  int64_t number = 0;
};

struct Warp {
  Meeting meeting;
  uint32_t values[kWarpSize];
  const void* pointers[kWarpSize];
};

struct Copy {
  void* to;
  const void* from;  // none: zeros
  size_t bytes;
  int group;  // 0: not ended yet; else how many groups have ended since, this one among them
};

constexpr size_t kStackBytes = 256 << 10;

// The block that runs.
struct Block {
  struct Thread {
    ucontext_t start;
    jmp_buf place;  // where it gave way
    std::vector<Copy> copies;
    bool begun, done;
  };
  std::vector<Thread> threads;
  std::vector<std::unique_ptr<char[]>> stacks;
  std::vector<Warp> warps;
  std::vector<uint4> shared;
  Meeting meeting;
  jmp_buf scheduler;
  unsigned current = 0;
  const std::function<void()>* kernel = nullptr;
};

Block block;

// Contexts start a fiber; jumps change between fibers, for they make no system call.
void give_way() {
  if (_setjmp(block.threads[block.current].place) == 0) _longjmp(block.scheduler, 1);
}

[[gnu::noinline]] void resume(Block::Thread& thread) {
  if (_setjmp(block.scheduler) != 0) return;
  if (thread.begun) _longjmp(thread.place, 1);
  thread.begun = true;
  setcontext(&thread.start);
}

void meet(Meeting& meeting, int threads) {
  const int64_t number = meeting.number;
  if (++meeting.waiting == threads) {
    meeting.waiting = 0;
    ++meeting.number;
    return;
  }
  while (meeting.number == number) give_way();
}

void run_thread() {
  (*block.kernel)();
  block.threads[block.current].done = true;
  _longjmp(block.scheduler, 1);
}

[[gnu::noinline]] void prepare(Block::Thread& thread, char* stack) {
  getcontext(&thread.start);
  thread.start.uc_stack.ss_sp = stack;
  thread.start.uc_stack.ss_size = kStackBytes;
  thread.start.uc_link = nullptr;
  makecontext(&thread.start, run_thread, 0);
  thread.begun = thread.done = false;
  thread.copies.clear();
}

void run_block(int threads) {
  for (int i = 0; i < threads; ++i) prepare(block.threads[i], block.stacks[i].get());
  bool forwards = true;
  for (int left = threads; left > 0; forwards = !forwards) {
    left = 0;
    for (int turn = 0; turn < threads; ++turn) {
      const int i = forwards ? turn : threads - 1 - turn;  // nobody may count on an order
      if (block.threads[i].done) continue;
      block.current = threadIdx.x = static_cast<unsigned>(i);
      resume(block.threads[i]);
      left += !block.threads[i].done;
    }
  }
}

// Makes the copies of groups that are at least so old.
void make_copies(int age) {
  std::vector<Copy>& copies = block.threads[block.current].copies;
  std::vector<Copy> later;
  for (const Copy& copy : copies) {
    if (copy.group < age) {
      later.push_back(copy);
    } else if (copy.from != nullptr) {
      std::memcpy(copy.to, copy.from, copy.bytes);
    } else {
      std::memset(copy.to, 0, copy.bytes);
    }
  }
  copies = later;
}

void copy_later(void* to, const void* from, bool there, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes) {
    throw std::logic_error("a copy does not start at a multiple of its size");
  }
  block.threads[block.current].copies.push_back({to, there ? from : nullptr, bytes, 0});
}

uint16_t element(const void* row, int column) {
  uint16_t value;
  std::memcpy(&value, static_cast<const char*>(row) + 2 * column, sizeof(value));
  return value;
}

void check_rows(const void* const* rows) {
  for (int i = 0; i < kWarpSize; ++i) {
    if (reinterpret_cast<uintptr_t>(rows[i]) % 16) {
      throw std::logic_error("a matrix row does not start at a multiple of 16 bytes");
    }
  }
}

}  // namespace

void launch(Index grid, int threads, size_t shared_bytes, const std::function<void()>& kernel) {
  block.threads.resize(threads);
  block.warps.resize(threads / kWarpSize);
  while (block.stacks.size() < static_cast<size_t>(threads)) {
    block.stacks.push_back(std::make_unique<char[]>(kStackBytes));
  }
  block.kernel = &kernel;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        // What a block leaves in shared memory is noise to the next one.
        block.shared.assign((shared_bytes + 15) / 16, uint4{~0u, ~0u, ~0u, ~0u});
        run_block(threads);
      }
    }
  }
}

unsigned char* shared_memory() { return reinterpret_cast<unsigned char*>(block.shared.data()); }
void sync_block() { meet(block.meeting, static_cast<int>(block.threads.size())); }
void sync_warp() { meet(block.warps[threadIdx.x / kWarpSize].meeting, kWarpSize); }

void copy_async(void* to, const void* from, bool there) { copy_later(to, from, there, 16); }
void copy_word_async(void* to, const void* from, bool there) { copy_later(to, from, there, 4); }

void commit_copies() {
  for (Copy& copy : block.threads[block.current].copies) ++copy.group;
}

void wait_for_copies() { make_copies(0); }

// The latest group has age 1.
void wait_for_earlier_copies() { make_copies(2); }

const uint32_t* gather(uint32_t value) {
  Warp& warp = block.warps[threadIdx.x / kWarpSize];
  warp.values[threadIdx.x % kWarpSize] = value;
  sync_warp();
  return warp.values;
}

const void* const* gather_pointers(const void* value) {
  Warp& warp = block.warps[threadIdx.x / kWarpSize];
  warp.pointers[threadIdx.x % kWarpSize] = value;
  sync_warp();
  return warp.pointers;
}

void load_matrices(uint32_t (&r)[4], const void* row) {
  const void* const* rows = gather_pointers(row);
  check_rows(rows);
  const int lane = static_cast<int>(threadIdx.x % kWarpSize), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const void* mine = rows[8 * i + g];
    r[i] = element(mine, 2 * t) | static_cast<uint32_t>(element(mine, 2 * t + 1)) << 16;
  }
  sync_warp();
}

void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  const void* const* rows = gather_pointers(row);
  check_rows(rows);
  const int lane = static_cast<int>(threadIdx.x % kWarpSize), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    r[i] = element(rows[8 * i + 2 * t], g) |
           static_cast<uint32_t>(element(rows[8 * i + 2 * t + 1], g)) << 16;
  }
  sync_warp();
}

}  // namespace attnpatch::kernels::device
