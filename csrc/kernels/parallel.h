// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <functional>

namespace attnpatch::kernels {

// Runs body(begin, end) over parts of [0, count), on as many threads as it likes.
using ParallelFor =
    std::function<void(int64_t count, const std::function<void(int64_t, int64_t)>& body)>;

// What a kernel may use of the machine: at most so many threads, by means of parallel_for.
struct Threads {
  int64_t threads = 1;
  ParallelFor parallel_for;
};

}  // namespace attnpatch::kernels
