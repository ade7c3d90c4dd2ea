// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What launchers do or find out once for a kernel and device, from many threads.

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/cuda/once.h"

namespace attnpatch::kernels {
namespace {

TEST(OncePerPair, RunsOnceForEachPairWhoeverComesFirst) {
  device::OncePerPair once;
  const int kernels[3] = {};
  std::atomic<int> runs[3][2] = {};
  std::atomic<int> early = 0;
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 600; ++i) {
        std::atomic<int>& mine = runs[i % 3][i % 2];
        once.run(&kernels[i % 3], i % 2, [&] { ++mine; });
        early += mine != 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& devices : runs) {
    for (const auto& count : devices) EXPECT_EQ(count, 1);
  }
  EXPECT_EQ(early, 0);
}

TEST(OncePerPair, TriesAgainAfterAnError) {
  device::OncePerPair once;
  const int kernel = 0;
  int runs = 0;
  EXPECT_THROW(once.run(&kernel, 0, [] { throw std::runtime_error("no"); }), std::runtime_error);
  for (int i = 0; i < 2; ++i) once.run(&kernel, 0, [&] { ++runs; });
  EXPECT_EQ(runs, 1);
}

TEST(PerKey, KeepsWhatWasFoundAtFirst) {
  device::PerKey<std::pair<int, int>, int> known;
  for (const int value : {7, 8}) {
    EXPECT_EQ(known.get({1, 2}, [&] { return value; }), 7);
  }
  EXPECT_EQ(known.get({2, 1}, [] { return 9; }), 9);
}

TEST(PerKey, TriesAgainAfterAnError) {
  device::PerKey<int, int> known;
  EXPECT_THROW(known.get(1, []() -> int { throw std::runtime_error("no"); }), std::runtime_error);
  EXPECT_EQ(known.get(1, [] { return 3; }), 3);
}

}  // namespace
}  // namespace attnpatch::kernels
