// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "rules/layer_table.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace attnpatch::rules {
namespace {

std::vector<int> channels(const LayerTable& table) {
  std::vector<int> result;
  for (const Layer& layer : table.layers()) result.push_back(layer.channels);
  return result;
}

std::vector<int> repeated(const std::vector<std::pair<int, int>>& runs) {
  std::vector<int> result;
  for (auto [value, count] : runs) {
    result.insert(result.end(), static_cast<size_t>(count), value);
  }
  return result;
}

struct Place {
  BlockKind block;
  std::vector<int> numbers;
  int transformers;
};

// The places (block, number, transformer) in checkpoint order.
std::vector<std::tuple<BlockKind, int, int>> listed(const std::vector<Place>& places) {
  std::vector<std::tuple<BlockKind, int, int>> result;
  for (const auto& [block, numbers, transformers] : places) {
    for (int number : numbers) {
      for (int i = 0; i < transformers; ++i) result.emplace_back(block, number, i);
    }
  }
  return result;
}

std::vector<std::tuple<BlockKind, int, int>> places(const LayerTable& table) {
  std::vector<std::tuple<BlockKind, int, int>> result;
  for (const Layer& layer : table.layers()) {
    result.emplace_back(layer.block, layer.number, layer.transformer);
  }
  return result;
}

TEST(LayerTable, TellsHeads) {
  EXPECT_EQ(layer_table("sd1").heads(), std::vector<int>(16, 8));
  EXPECT_EQ(layer_table("sd2").heads(),
            repeated({{5, 2}, {10, 2}, {20, 2}, {20, 3}, {10, 3}, {5, 3}, {20, 1}}));
  EXPECT_EQ(layer_table("sdxl").heads(),
            repeated({{10, 4}, {20, 20}, {20, 30}, {10, 6}, {20, 10}}));
  EXPECT_EQ(layer_table("sd1"), layer_table("sd2")) << "they differ in heads only";
  const LayerTable plain(layer_table("sd1").layers());
  EXPECT_TRUE(plain.heads().empty());
  EXPECT_EQ(plain.with_heads(std::vector<int>(16, 3)).heads(), std::vector<int>(16, 3));
  EXPECT_THROW(plain.with_heads({8, 8}), std::invalid_argument);
  EXPECT_EQ(plain.with_heads(std::vector<int>(16, 0)).heads(), std::vector<int>(16, 0));
  EXPECT_THROW(plain.with_heads(std::vector<int>(16, -1)), std::invalid_argument);
}

TEST(LayerTable, HasTheSitesOfSd1) {
  const LayerTable& table = layer_table("sd1");
  EXPECT_EQ(places(table), listed({{BlockKind::kInput, {1, 2, 4, 5, 7, 8}, 1},
                                   {BlockKind::kOutput, {3, 4, 5, 6, 7, 8, 9, 10, 11}, 1},
                                   {BlockKind::kMiddle, {0}, 1}}));
  // Counted in keys and values: 320 four times is two sites.
  EXPECT_EQ(channels(table),
            repeated({{320, 2}, {640, 2}, {1280, 2}, {1280, 3}, {640, 3}, {320, 3}, {1280, 1}}));
  EXPECT_EQ(table.spatial_count(), 16);
  EXPECT_EQ(table.family(), "SD1.x/SD2.x");
}

TEST(LayerTable, HasTheSitesOfSdxl) {
  const LayerTable& table = layer_table("sdxl");
  EXPECT_EQ(places(table), listed({{BlockKind::kInput, {4, 5}, 2},
                                   {BlockKind::kInput, {7, 8}, 10},
                                   {BlockKind::kOutput, {0, 1, 2}, 10},
                                   {BlockKind::kOutput, {3, 4, 5}, 2},
                                   {BlockKind::kMiddle, {0}, 10}}));
  EXPECT_EQ(channels(table), repeated({{640, 4}, {1280, 20}, {1280, 30}, {640, 6}, {1280, 10}}));
  EXPECT_EQ(table.spatial_count(), 11);
  EXPECT_EQ(table.family(), "SDXL");
}

TEST(LayerTable, CountsSpatialTransformersInForwardOrder) {
  const LayerTable& sdxl = layer_table("sdxl");
  std::vector<int> inputs, middles, outputs;
  for (const Layer& layer : sdxl.layers()) {
    (layer.block == BlockKind::kInput    ? inputs
     : layer.block == BlockKind::kMiddle ? middles
                                         : outputs)
        .push_back(layer.spatial);
  }
  EXPECT_EQ(inputs, repeated({{0, 2}, {1, 2}, {2, 10}, {3, 10}}));
  EXPECT_EQ(middles, repeated({{4, 10}}));
  EXPECT_EQ(outputs, repeated({{5, 10}, {6, 10}, {7, 10}, {8, 2}, {9, 2}, {10, 2}}));
  // The layers of style and of composition, by their names in diffusers.
  EXPECT_EQ(sdxl.find("up_blocks.0.attentions.1.transformer_blocks.0")->spatial, 6);
  EXPECT_EQ(sdxl.find("down_blocks.2.attentions.1.transformer_blocks.9")->spatial, 3);
}

TEST(LayerTable, NamesLevelsAndLooksUp) {
  const LayerTable& table = layer_table("sd1");
  const Layer* layer = table.find(BlockKind::kOutput, 4, 0);
  ASSERT_NE(layer, nullptr);
  EXPECT_EQ(layer->name, "up_blocks.1.attentions.1.transformer_blocks.0");
  EXPECT_EQ(layer->level, 2);
  EXPECT_EQ(table.find(layer->name + ".attn2.processor"), layer);
  EXPECT_EQ(table.find(BlockKind::kMiddle, 0, 0)->name,
            "mid_block.attentions.0.transformer_blocks.0");
  EXPECT_EQ(table.find(BlockKind::kMiddle, 0, 0)->level, 3);
  EXPECT_EQ(table.find(BlockKind::kMiddle, 1, 0), nullptr);
  EXPECT_EQ(table.find("up_blocks.1.attentions.1"), nullptr);
  EXPECT_EQ(layer_table("sdxl").find("mid_block.attentions.0.transformer_blocks.1")->transformer,
            1);
}

TEST(LayerTable, EveryNameAndPlaceIsUnique) {
  for (const char* family : {"sd1", "sdxl"}) {
    const LayerTable& table = layer_table(family);
    std::set<std::string> names;
    for (const Layer& layer : table.layers()) {
      EXPECT_EQ(table.find(layer.name), &layer);
      EXPECT_EQ(table.find(layer.block, layer.number, layer.transformer), &layer);
      names.insert(layer.name);
    }
    EXPECT_EQ(names.size(), table.layers().size());
  }
}

TEST(LayerTable, DescribesSmallUnets) {
  // One layer a block, attention on the lower two of three levels.
  const LayerTable table = make_layer_table({.input = {{32, {0}}, {64, {1}}, {96, {1}}},
                                             .middle = BlockDescription{96, {1}},
                                             .output = {{96, {1, 1}}, {64, {1, 1}}, {32, {0, 0}}}});
  EXPECT_EQ(channels(table), (std::vector<int>{64, 96, 96, 96, 64, 64, 96}));
  EXPECT_EQ(places(table), listed({{BlockKind::kInput, {3, 5}, 1},
                                   {BlockKind::kOutput, {0, 1, 2, 3}, 1},
                                   {BlockKind::kMiddle, {0}, 1}}));
  EXPECT_EQ(table.family(), "custom");
  EXPECT_EQ(table.spatial_count(), 7);
}

TEST(LayerTable, DepthsMayDifferAndTheMiddleMayLack) {
  // The structure of SSD-1B: some layers of a block lost their attention or a part of it.
  const LayerTable table =
      make_layer_table({.input = {{320, {0, 0}}, {640, {2, 2}}, {1280, {4, 4}}},
                        .middle = std::nullopt,
                        .output = {{1280, {4, 4, 10}}, {640, {2, 1, 1}}, {320, {0, 0, 0}}}});
  EXPECT_EQ(table.size(), 2 * 2 + 2 * 4 + 18 + 4);
  EXPECT_EQ(table.find(BlockKind::kMiddle, 0, 0), nullptr);
  EXPECT_NE(table.find(BlockKind::kOutput, 2, 9), nullptr);
  EXPECT_EQ(table.find(BlockKind::kOutput, 4, 1), nullptr);
}

TEST(LayerTable, RefusesWhatIsNoUnet) {
  EXPECT_THROW(layer_table("flux"), std::invalid_argument);
  EXPECT_THROW(make_layer_table({.input = {}, .middle = std::nullopt, .output = {}}),
               std::invalid_argument);
  EXPECT_THROW(make_layer_table({.input = {{32, {1}}}, .middle = std::nullopt, .output = {}}),
               std::invalid_argument);
  EXPECT_THROW(
      make_layer_table({.input = {{0, {1}}}, .middle = std::nullopt, .output = {{32, {1}}}}),
      std::invalid_argument);
  EXPECT_THROW(
      make_layer_table({.input = {{32, {-1}}}, .middle = std::nullopt, .output = {{32, {1}}}}),
      std::invalid_argument);
  EXPECT_THROW(
      make_layer_table(
          {.input = {{32, {1}}}, .middle = BlockDescription{32, {1, 1}}, .output = {{32, {1}}}}),
      std::invalid_argument);
  Layer second;
  second.index = 1;
  EXPECT_THROW(LayerTable({second}), std::invalid_argument);
}

TEST(TokenGrid, IsThatOfStridedConvolutionsOnTheWholeLattice) {
  // Kernel 3, stride 2, padding 1 is what halves in these UNets.
  const auto convolved = [](int size) { return (size + 2 - 3) / 2 + 1; };
  for (int height = 1; height <= 256; ++height) {  // every multiple of 8 pixels up to 2048
    for (int width = 1; width <= 256; ++width) {
      GridSize expected{height, width};
      for (int level = 0; level < 4; ++level) {
        ASSERT_EQ(token_grid(height, width, level), expected) << height << "x" << width;
        expected = {convolved(expected.rows), convolved(expected.columns)};
      }
    }
  }
}

TEST(TokenGrid, RefusesEmptyLatents) {
  EXPECT_THROW(token_grid(0, 64, 0), std::invalid_argument);
  EXPECT_THROW(token_grid(64, -1, 0), std::invalid_argument);
  EXPECT_THROW(token_grid(64, 64, -1), std::invalid_argument);
  EXPECT_EQ(token_grid(64, 64, 1000000), (GridSize{1, 1}));
}

TEST(BlockKind, HasNames) {
  for (BlockKind kind : {BlockKind::kInput, BlockKind::kMiddle, BlockKind::kOutput}) {
    EXPECT_EQ(parse_block_kind(to_string(kind)), kind);
  }
  EXPECT_THROW(parse_block_kind("mid"), std::invalid_argument);
}

}  // namespace
}  // namespace attnpatch::rules
