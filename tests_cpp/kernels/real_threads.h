// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Threads for a kernel under test, and how often it asked for them.

#pragma once

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "kernels/parallel.h"

namespace attnpatch::kernels {

class RealThreads {
 public:
  // Lets a kernel have so many threads, all at work at a time.
  void serve(Threads& threads, int64_t count) {
    threads.threads = count;
    threads.parallel_for = [this](int64_t parts,
                                  const std::function<void(int64_t, int64_t)>& body) {
      ++regions_;
      std::vector<std::thread> running;
      for (int64_t i = 0; i < parts; ++i) running.emplace_back([&body, i] { body(i, i + 1); });
      for (std::thread& thread : running) thread.join();
    };
  }

  int regions() const { return regions_; }

 private:
  int regions_ = 0;
};

}  // namespace attnpatch::kernels
