// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "patches/batch_rows.h"

#include <gtest/gtest.h>

#include <ostream>
#include <stdexcept>
#include <string>
#include <utility>

namespace attnpatch {
namespace {

using Rows = std::vector<std::int64_t>;

struct RowCase {
  BatchLayout layout;
  int pictures;
  int negatives;
  Rows rows;
  const char* reason;
};
void PrintTo(const RowCase& c, std::ostream* out) { *out << c.reason; }

class KeyRows : public testing::TestWithParam<RowCase> {};

TEST_P(KeyRows, FollowChunksAndSamples) {
  const auto& [layout, pictures, negatives, rows, reason] = GetParam();
  EXPECT_EQ(key_rows(layout, {}, pictures, negatives), rows);
}

INSTANTIATE_TEST_SUITE_P(
    All, KeyRows,
    testing::Values(
        RowCase{{{0}, 1, {}}, 1, 1, {0}, "cond alone"},
        RowCase{{{1}, 1, {}}, 1, 1, {1}, "uncond alone"},
        RowCase{{{1, 0}, 2, {}}, 1, 1, {1, 0}, "diffusers' order"},
        RowCase{{{0, 1}, 2, {}}, 1, 1, {0, 1}, "the other order"},
        RowCase{{{0, 1, 2}, 3, {}}, 1, 1, {0, 1, 1}, "a third kind is uncond"},
        RowCase{{{1, 1, 0, 0}, 4, {}}, 1, 1, {1, 1, 0, 0}, "two conds and two unconds"},
        RowCase{{{1, 0}, 6, {}}, 1, 1, {1, 1, 1, 0, 0, 0}, "a batch of one picture"},
        RowCase{{{1, 0}, 6, {}}, 3, 1, {3, 3, 3, 0, 1, 2}, "one picture each, one negative"},
        RowCase{{{0, 1}, 6, {}}, 3, 3, {0, 1, 2, 3, 4, 5}, "one negative each"},
        RowCase{{{1, 0}, 4, {2, 0}}, 3, 3, {5, 3, 2, 0}, "a window of pictures"},
        RowCase{{{0}, 4, {0, 0, 1, 1}}, 2, 1, {0, 0, 1, 1}, "two of each picture"},
        RowCase{{{1, 0}, 2, {}}, 1, 0, {-1, 0}, "no negative: uncond gets nothing"}));

TEST(KeyRows, RolesMayBeDeclared) {
  const BatchLayout layout{{0, 1, 2, 3}, 4, {}};
  EXPECT_EQ(key_rows(layout, {{2, Role::kCond}, {3, Role::kOff}}, 1, 1), (Rows{0, 1, 0, -1}));
  EXPECT_EQ(key_rows(layout, {{1, Role::kOff}, {0, Role::kUncond}}, 1, 1), (Rows{1, -1, 1, 1}));
}

TEST(PictureRows, ShareOneOrTakeTheSamples) {
  EXPECT_EQ(picture_rows({{1, 0}, 4, {}}, 1, "mask"), (Rows{0, 0, 0, 0}));
  EXPECT_EQ(picture_rows({{1, 0}, 4, {}}, 2, "mask"), (Rows{0, 1, 0, 1}));
  EXPECT_EQ(picture_rows({{1, 0}, 4, {7, 3}}, 8, "mask"), (Rows{7, 3, 7, 3}));
  EXPECT_EQ(picture_rows({{1, 0}, 4, {7, 3}}, 1, "mask"), (Rows{0, 0, 0, 0}));
}

/// The message of the error that a call throws.
template <typename Call>
std::string message(Call&& call) {
  try {
    std::forward<Call>(call)();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

TEST(PictureRows, NameWhatDoesNotFit) {
  const auto rows = [](BatchLayout layout, int count) {
    return message([&] { picture_rows(layout, count, "mask"); });
  };
  EXPECT_EQ(
      rows({{1, 0}, 4, {}}, 3),
      "mask: 3 pictures do not fit a batch of 4 rows in 2 chunks; expected 1 or 2, or samples "
      "that name the picture of each row of a chunk");
  // Two pictures for a batch of one are not one for cond and one for uncond.
  EXPECT_NE(rows({{1, 0}, 2, {}}, 2).find("expected 1, or samples"), std::string::npos);
  EXPECT_NE(rows({{0}, 2, {0, 5}}, 3).find("highest of samples"), std::string::npos);
  EXPECT_NE(rows({{}, 2, {}}, 1).find("chunks"), std::string::npos);
  EXPECT_NE(rows({{0, 1}, 3, {}}, 1).find("batch"), std::string::npos);
  EXPECT_NE(rows({{0}, 0, {}}, 1).find("batch"), std::string::npos);
  EXPECT_NE(rows({{0}, 2, {1}}, 1).find("samples"), std::string::npos);
  EXPECT_NE(rows({{0}, 1, {-1}}, 1).find("samples"), std::string::npos);
}

TEST(KeyRows, NameWhatDoesNotFit) {
  const BatchLayout layout{{1, 0}, 6, {}};
  EXPECT_NE(message([&] { key_rows(layout, {}, 0, 1); }).find("pictures"), std::string::npos);
  EXPECT_NE(message([&] { key_rows(layout, {}, 3, 2); }).find("uncond"), std::string::npos);
  EXPECT_NE(message([&] { key_rows(layout, {}, 2, 1); }).find("image prompt"), std::string::npos);
}

TEST(RowRoles, CoverEveryRow) {
  EXPECT_EQ(row_roles({{0, 1, 5}, 6, {}}, {{5, Role::kOff}}),
            (std::vector<Role>{Role::kCond, Role::kCond, Role::kUncond, Role::kUncond, Role::kOff,
                               Role::kOff}));
}

}  // namespace
}  // namespace attnpatch
