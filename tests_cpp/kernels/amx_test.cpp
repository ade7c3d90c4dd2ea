// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cpu/amx.h"

#include <gtest/gtest.h>

#if ATTNPATCH_AMX

#include <array>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace attnpatch::kernels::amx {
namespace {

class Amx : public testing::Test {
 protected:
  void SetUp() override {
    if (!available()) GTEST_SKIP() << "this processor has no AMX, or the system does not give it";
  }
};

std::array<uint8_t, 64> configuration() {
  alignas(64) std::array<uint8_t, 64> now = {};
  asm volatile("sttilecfg %0" : "=m"(now));
  return now;
}

uint16_t bfloat16(float x) {
  uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof(bits));
  return static_cast<uint16_t>(bits >> 16);
}

TEST_F(Amx, TilesAreLeftAsTheyWere) {
  const auto before = configuration();
  {
    const Tiles outer;
    const auto during = configuration();
    EXPECT_NE(during, before);
    {
      const Tiles inner;
      EXPECT_EQ(configuration(), during);
    }
    EXPECT_EQ(configuration(), during);  // that of the caller, torch say, is still there
  }
  EXPECT_EQ(configuration(), before);
}

// Whole numbers up to 8, so that all sums are exact: C = A · B of every number of tiles.
template <int M, int N>
void expect_products() {
  constexpr int64_t kSteps = 3, kA = kSteps * kTerms, kRowsOfC = 16 * M, kColumns = 16 * N;
  std::vector<uint16_t> a(kRowsOfC * kA);
  std::vector<float> b_numbers(kA * kColumns), c(kRowsOfC * kColumns, 5.0f);
  std::vector<float> a_numbers(a.size());
  for (size_t i = 0; i < a.size(); ++i) {
    a_numbers[i] = static_cast<float>(static_cast<int>(i * 7 % 17) - 8);
    a[i] = bfloat16(a_numbers[i]);
  }
  for (size_t i = 0; i < b_numbers.size(); ++i) {
    b_numbers[i] = static_cast<float>(static_cast<int>(i * 5 % 13) - 6);
  }
  // [column of tiles][step][pair of rows][column][2]
  std::vector<float> packed(static_cast<size_t>(N * kSteps * kTileFloats));
  auto* to = reinterpret_cast<uint16_t*>(packed.data());
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < kA; k += 2) {
      for (int64_t j = 0; j < 16; ++j) {
        for (int64_t i = 0; i < 2; ++i)
          *to++ = bfloat16(b_numbers[(k + i) * kColumns + n * 16 + j]);
      }
    }
  }
  {
    const Tiles tiles;
    Block<M, N>::load(c.data(), kColumns);
    for (int64_t s = 0; s < kSteps; ++s) {
      Block<M, N>::multiply_add(a.data() + s * kTerms, kA, packed.data() + s * kTileFloats,
                                kSteps * kTileFloats);
    }
    Block<M, N>::store(c.data(), kColumns);
  }
  for (int64_t i = 0; i < kRowsOfC; ++i) {
    for (int64_t j = 0; j < kColumns; ++j) {
      float expected = 5.0f;
      for (int64_t k = 0; k < kA; ++k) {
        expected += a_numbers[i * kA + k] * b_numbers[k * kColumns + j];
      }
      ASSERT_EQ(c[i * kColumns + j], expected) << i << ", " << j;
    }
  }
}

TEST_F(Amx, BlocksMultiplyTiles) {
  expect_products<1, 1>();
  expect_products<1, 2>();
  expect_products<2, 1>();
  expect_products<2, 2>();
}

TEST_F(Amx, EveryThreadHasTiles) {
  std::thread other(expect_products<2, 2>);
  other.join();
}

}  // namespace
}  // namespace attnpatch::kernels::amx

#endif  // ATTNPATCH_AMX
