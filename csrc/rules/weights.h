// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "rules/layer_table.h"

namespace attnpatch::rules {

// Weights of the spatial transformers named by their number t in forward order; the rest have
// none.
using SpatialWeights = std::map<int, double>;
// Weights by name: "down", "down.block_2", "mid", "up.block_0", or a layer's name or the front of
// it up to a dot. One number for all, or one for each spatial transformer of that part ("down" and
// "up": of each of their blocks). The longest name that fits a layer counts; the rest have none.
using NamedWeights = std::map<std::string, std::vector<double>>;

// How a weight spreads over the layers: one number; a preset's name; by t; by name; or one for
// each layer in checkpoint order.
using LayerWeights =
    std::variant<double, std::string, SpatialWeights, NamedWeights, std::vector<double>>;

// The weight of each layer of the table; nullopt: the grammar gives that layer none.
// Throws std::invalid_argument for what does not fit the table, naming both.
std::vector<std::optional<double>> layer_weights(const LayerTable& table,
                                                 const LayerWeights& weights);

// The names of the presets, in the order in which a menu shows them.
const std::vector<std::string>& weight_presets();

// A curve over the progress of sampling: points (progress, factor), straight lines between them,
// level outside. Two points at one progress make a step; there the later point counts.
class Curve {
 public:
  // Throws std::invalid_argument unless every number is finite and progress never falls.
  explicit Curve(std::vector<std::pair<double, double>> points);
  // 1 for a curve without points.
  double operator()(double progress) const;

 private:
  std::vector<std::pair<double, double>> points_;
};

// The part of sampling in which a patch is active.
struct Window {
  double start = 0;            // at most 0: from the very beginning
  double end = 1;              // at least 1: to the very end
  bool end_exclusive = false;  // active while progress < end, whatever the end

  // No progress lies inside.
  bool empty() const;
  // Every progress from 0 to 1 lies inside.
  bool full() const;
  bool contains(double progress) const;
};

}  // namespace attnpatch::rules
