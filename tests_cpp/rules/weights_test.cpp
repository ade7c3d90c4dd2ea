// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "rules/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <limits>
#include <optional>
#include <ostream>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace attnpatch::rules {
namespace {

// Formulas of docs/design/image-prompts.md, in the layer's t, the table's L and its block.
struct RampCase {
  const char* preset;
  std::function<double(double t, double spatial, BlockKind block)> formula;
};
void PrintTo(const RampCase& c, std::ostream* out) { *out << c.preset; }

class RampPreset : public testing::TestWithParam<RampCase> {};

TEST_P(RampPreset, FollowsItsFormula) {
  for (const char* family : {"sd1", "sdxl"}) {
    const LayerTable& table = layer_table(family);
    const double spatial = family == std::string("sd1") ? 16 : 11;
    const auto weights = layer_weights(table, std::string(GetParam().preset));
    ASSERT_EQ(weights.size(), table.layers().size());
    for (const Layer& layer : table.layers()) {
      const auto weight = weights[static_cast<size_t>(layer.index)];
      ASSERT_TRUE(weight.has_value()) << layer.name;
      EXPECT_NEAR(*weight, GetParam().formula(layer.spatial, spatial, layer.block), 1e-15)
          << layer.name;
    }
  }
}

double weak(bool yes) { return yes ? 0.2 : 1.0; }

INSTANTIATE_TEST_SUITE_P(
    All, RampPreset,
    testing::Values(
        RampCase{"linear", [](double, double, BlockKind) { return 1.0; }},
        RampCase{"ease in",
                 [](double t, double l, BlockKind) { return 0.05 + 0.95 * (1 - t / l); }},
        RampCase{"ease out", [](double t, double l, BlockKind) { return 0.05 + 0.95 * t / l; }},
        RampCase{"ease in-out",
                 [](double t, double l, BlockKind) {
                   return 0.05 + 0.95 * (1 - std::abs(t - l / 2) / (l / 2));
                 }},
        RampCase{"reverse in-out",
                 [](double t, double l, BlockKind) {
                   return 0.05 + 0.95 * std::abs(t - l / 2) / (l / 2);
                 }},
        RampCase{"weak input",
                 [](double, double, BlockKind b) { return weak(b == BlockKind::kInput); }},
        RampCase{"weak middle",
                 [](double, double, BlockKind b) { return weak(b == BlockKind::kMiddle); }},
        RampCase{"weak output",
                 [](double, double, BlockKind b) { return weak(b == BlockKind::kOutput); }},
        RampCase{"strong middle",
                 [](double, double, BlockKind b) { return weak(b != BlockKind::kMiddle); }}));

// The weights by t that a preset gives; layers of one t must agree.
SpatialWeights by_spatial(const LayerTable& table, const std::string& preset) {
  SpatialWeights result;
  std::set<int> without;
  const auto weights = layer_weights(table, preset);
  for (const Layer& layer : table.layers()) {
    if (const auto weight = weights[static_cast<size_t>(layer.index)]) {
      EXPECT_EQ(result.emplace(layer.spatial, *weight).first->second, *weight);
    } else {
      without.insert(layer.spatial);
    }
  }
  for (int t : without) EXPECT_FALSE(result.contains(t));
  return result;
}

SpatialWeights ones(std::initializer_list<int> numbers) {
  SpatialWeights result;
  for (int t : numbers) result[t] = 1.0;
  return result;
}

TEST(StylePresets, PickTheLayersOfSdxl) {
  const LayerTable& table = layer_table("sdxl");
  EXPECT_EQ(by_spatial(table, "style transfer"), ones({6}));
  EXPECT_EQ(by_spatial(table, "composition"), ones({3}));
  EXPECT_EQ(by_spatial(table, "strong style transfer"), ones({0, 1, 2, 4, 5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(by_spatial(table, "style and composition"), ones({3, 6}));
  SpatialWeights around{{6, 1.0}};
  for (int t : {0, 1, 2, 4, 5, 7, 8, 9, 10}) around[t] = 0.1;
  EXPECT_EQ(by_spatial(table, "around composition"), around);
}

TEST(StylePresets, PickTheLayersOfSd1) {
  const LayerTable& table = layer_table("sd1");
  const SpatialWeights style = ones({0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15});
  const SpatialWeights composition{{4, 0.25}, {5, 1.0}};
  EXPECT_EQ(by_spatial(table, "style transfer"), style);
  EXPECT_EQ(by_spatial(table, "composition"), composition);
  EXPECT_EQ(by_spatial(table, "strong style transfer"),
            ones({0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}));
  SpatialWeights both = style;
  both.insert(composition.begin(), composition.end());
  EXPECT_EQ(by_spatial(table, "style and composition"), both);
  SpatialWeights around = style;
  for (int t : {6, 7, 8}) around[t] = 0.1;
  EXPECT_EQ(by_spatial(table, "around composition"), around);
}

LayerTable small_table() {
  return make_layer_table({.input = {{32, {1}}, {64, {2}}},
                           .middle = BlockDescription{64, {1}},
                           .output = {{64, {2, 1}}, {32, {1, 1}}}});
}

TEST(StylePresets, AreRefusedWhereNotKnown) {
  EXPECT_THROW(layer_weights(small_table(), std::string("style transfer")), std::invalid_argument);
  EXPECT_EQ(layer_weights(small_table(), std::string("ease in")).size(), 9u);
}

TEST(LayerWeights, PresetsAreThoseOfTheMenu) {
  for (const std::string& preset : weight_presets()) {
    EXPECT_EQ(layer_weights(layer_table("sdxl"), preset).size(), 70u) << preset;
  }
  EXPECT_THROW(layer_weights(layer_table("sdxl"), std::string("ease")), std::invalid_argument);
}

using Weights = std::vector<std::optional<double>>;
constexpr auto kNone = std::nullopt;

TEST(LayerWeights, NumberAndList) {
  const LayerTable table = small_table();
  EXPECT_EQ(layer_weights(table, 0.5), Weights(9, 0.5));
  const std::vector<double> list{0, 1, 2, 3, 4, 5, 6, 7, 8};
  EXPECT_EQ(layer_weights(table, list), Weights(list.begin(), list.end()));
  EXPECT_THROW(layer_weights(table, std::vector<double>(8, 1.0)), std::invalid_argument);
  EXPECT_THROW(layer_weights(table, std::numeric_limits<double>::quiet_NaN()),
               std::invalid_argument);
}

// small_table() in checkpoint order has t = 0, 1, 1 (input), 3, 3, 4, 5, 6 (output), 2 (middle).

TEST(LayerWeights, DictOfSpatialTransformers) {
  const LayerTable table = small_table();
  EXPECT_EQ(layer_weights(table, SpatialWeights{{1, 0.5}, {2, 2.0}, {3, 0.0}}),
            (Weights{kNone, 0.5, 0.5, 0.0, 0.0, kNone, kNone, kNone, 2.0}));
  EXPECT_THROW(layer_weights(table, SpatialWeights{{7, 1.0}}), std::invalid_argument);
  EXPECT_THROW(layer_weights(table, SpatialWeights{{-1, 1.0}}), std::invalid_argument);
}

TEST(LayerWeights, NamesOfParts) {
  const LayerTable table = small_table();
  EXPECT_EQ(layer_weights(table, NamedWeights{{"down.block_1", {0.5}}, {"up", {1, 2}}}),
            (Weights{kNone, 0.5, 0.5, 1, 1, 2, 1, 2, kNone}));
  EXPECT_EQ(layer_weights(table, NamedWeights{{"up_blocks", {1, 2, 3, 4}}}),
            (Weights{kNone, kNone, kNone, 1, 1, 2, 3, 4, kNone}));
  EXPECT_EQ(layer_weights(table, NamedWeights{{"up", {0.5}}, {"up.block_0", {1, 2}}, {"mid", {7}}}),
            (Weights{kNone, kNone, kNone, 1, 1, 2, 0.5, 0.5, 7}));
  EXPECT_EQ(
      layer_weights(table, NamedWeights{{"down_blocks.0", {1}},
                                        {"up_blocks.0.attentions.0.transformer_blocks.1", {2}}}),
      (Weights{1, kNone, kNone, kNone, 2, kNone, kNone, kNone, kNone}));
}

TEST(LayerWeights, RefusesNamesOfNothingAndWrongCounts) {
  const LayerTable table = small_table();
  for (const char* name :
       {"up.block_2", "down_blocks.0.attentions.1", "down_block", "middle", ""}) {
    EXPECT_THROW(layer_weights(table, NamedWeights{{name, {1}}}), std::invalid_argument) << name;
  }
  EXPECT_THROW(layer_weights(table, NamedWeights{{"up.block_0", {1, 2, 3}}}),
               std::invalid_argument);
  EXPECT_THROW(layer_weights(table, NamedWeights{{"up.block_0", {}}}), std::invalid_argument);
  EXPECT_THROW(layer_weights(table, NamedWeights{{"up", {1, 2, 3, 4}}}), std::invalid_argument);
  EXPECT_THROW(layer_weights(LayerTable({}), NamedWeights{{"up", {1, 2}}}), std::invalid_argument);
  EXPECT_THROW(layer_weights(layer_table("sdxl"), NamedWeights{{"down.block_0", {1}}}),
               std::invalid_argument);
}

TEST(Curve, IsPiecewiseLinear) {
  const Curve curve({{0.2, 1.0}, {0.4, 0.0}, {0.4, 2.0}, {0.8, 4.0}});
  EXPECT_EQ(curve(0.0), 1.0);
  EXPECT_EQ(curve(0.2), 1.0);
  EXPECT_NEAR(curve(0.3), 0.5, 1e-15);
  EXPECT_EQ(curve(0.4), 2.0);  // at a step the later point counts
  EXPECT_NEAR(curve(0.6), 3.0, 1e-15);
  EXPECT_EQ(curve(0.8), 4.0);
  EXPECT_EQ(curve(1.0), 4.0);
  EXPECT_EQ(Curve({})(0.5), 1.0);
}

TEST(Curve, RefusesDisorder) {
  EXPECT_THROW(Curve({{0.5, 1.0}, {0.4, 1.0}}), std::invalid_argument);
  EXPECT_THROW(Curve({{0.5, std::numeric_limits<double>::infinity()}}), std::invalid_argument);
  EXPECT_THROW(Curve({{std::numeric_limits<double>::quiet_NaN(), 1.0}}), std::invalid_argument);
}

struct WindowCase {
  Window window;
  std::set<double> active;  // of 0, 0.25, 0.5, 0.75, 1
  const char* reason;
};
void PrintTo(const WindowCase& c, std::ostream* out) { *out << c.reason; }

class WindowTest : public testing::TestWithParam<WindowCase> {};

TEST_P(WindowTest, ContainsItsPart) {
  const auto& [window, active, reason] = GetParam();
  for (double progress : {0.0, 0.25, 0.5, 0.75, 1.0}) {
    EXPECT_EQ(window.contains(progress), active.contains(progress)) << progress;
  }
  EXPECT_EQ(window.empty(), active.empty());
  EXPECT_EQ(window.full(), active.size() == 5);
}

const double kNan = std::numeric_limits<double>::quiet_NaN();

INSTANTIATE_TEST_SUITE_P(
    All, WindowTest,
    testing::Values(WindowCase{{0, 1}, {0, 0.25, 0.5, 0.75, 1}, "always"},
                    WindowCase{{-1, 2}, {0, 0.25, 0.5, 0.75, 1}, "beyond both ends"},
                    WindowCase{{0.25, 0.75}, {0.25, 0.5, 0.75}, "both ends belong to it"},
                    WindowCase{{0.5, 0.5}, {0.5}, "a single moment"},
                    WindowCase{{0, 0.5, true}, {0, 0.25}, "Fooocus: while progress < stop"},
                    WindowCase{
                        {0, 1, true}, {0, 0.25, 0.5, 0.75}, "Fooocus at stop 1: not the very last"},
                    WindowCase{{0, 1.5, true}, {0, 0.25, 0.5, 0.75, 1}, "Fooocus beyond 1"},
                    WindowCase{{0.5, 0.5, true}, {}, "nothing is from 0.5 and before it"},
                    WindowCase{{0.75, 0.25}, {}, "start after end"},
                    WindowCase{{1, 1}, {}, "nothing starts at the very end"},
                    WindowCase{{0, 0}, {}, "nothing ends at the very beginning"},
                    WindowCase{{kNan, 1}, {}, "not a number"}));

}  // namespace
}  // namespace attnpatch::rules
