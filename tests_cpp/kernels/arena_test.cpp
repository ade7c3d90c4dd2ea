// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cpu/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace attnpatch::kernels {
namespace {

constexpr int64_t kCounts[] = {1, 17, 5000, 40'000, 16, 100'000, 3};

TEST(Arena, PiecesAreAlignedAndApart) {
  Arena arena;
  Arena::Scope scope(arena);
  std::vector<float*> pieces;
  for (const int64_t count : kCounts) {
    pieces.push_back(scope.take(count));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pieces.back()) % 64, 0u);
    std::fill_n(pieces.back(), count, static_cast<float>(count));
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    const int64_t count = kCounts[i];
    EXPECT_EQ(std::count(pieces[i], pieces[i] + count, static_cast<float>(count)), count);
  }
}

TEST(Arena, WhatAnOuterScopeTookOutlivesInnerOnes) {
  Arena arena;
  Arena::Scope outer(arena);
  float* const kept = outer.take(100);
  std::fill_n(kept, 100, 1.0f);
  for (const int64_t count : kCounts) {
    Arena::Scope inner(arena);
    std::fill_n(inner.take(count), count, 2.0f);
  }
  EXPECT_EQ(std::count(kept, kept + 100, 1.0f), 100);
}

// The second call of a kind takes all from one block, at the same places.
TEST(Arena, KeepsOneBlockForTheNextCall) {
  Arena arena;
  const auto call = [&] {
    Arena::Scope scope(arena);
    std::vector<float*> places;
    for (const int64_t count : kCounts) places.push_back(scope.take(count));
    return places;
  };
  call();
  const std::vector<float*> second = call();
  const int64_t held = arena.held();
  EXPECT_EQ(call(), second);
  EXPECT_EQ(arena.held(), held);
  EXPECT_LT(second.front(), second.back());
}

TEST(Arena, KeepsNoMoreThanItsBound) {
  Arena arena;
  {
    Arena::Scope scope(arena);
    scope.take(kKeptFloats + 1);
    EXPECT_GT(arena.held(), kKeptFloats);
  }
  EXPECT_EQ(arena.held(), 0);
  { Arena::Scope(arena).take(100); }
  EXPECT_GT(arena.held(), 0);
  EXPECT_LT(arena.held(), kKeptFloats / 100);
}

}  // namespace
}  // namespace attnpatch::kernels
