// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "rules/weights.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace attnpatch::rules {
namespace {

using Weights = std::vector<std::optional<double>>;

// The spatial transformers that carry a reference picture's style and its composition, found for
// SD1.x and SDXL by trial (InstantStyle, arXiv 2404.02733, and its relatives).
struct StyleLayers {
  int spatial_count;
  SpatialWeights style;
  SpatialWeights composition;
};

const std::vector<StyleLayers>& style_layers() {
  static const std::vector<StyleLayers> kLayers = {
      {11, {{6, 1.0}}, {{3, 1.0}}},
      {16,
       {{0, 1.0},
        {1, 1.0},
        {2, 1.0},
        {3, 1.0},
        {9, 1.0},
        {10, 1.0},
        {11, 1.0},
        {12, 1.0},
        {13, 1.0},
        {14, 1.0},
        {15, 1.0}},
       {{4, 0.25}, {5, 1.0}}},
  };
  return kLayers;
}

std::optional<double> at(const SpatialWeights& weights, int t) {
  const auto it = weights.find(t);
  return it == weights.end() ? std::nullopt : std::optional(it->second);
}

// The presets that give every layer a weight: ramps over t, and the blocks that are held back.
std::optional<double> ramp_preset(std::string_view name, const Layer& layer, int spatial_count) {
  const double t = layer.spatial;
  const double half = spatial_count / 2.0;
  const double from_middle = std::abs(t - half) / half;
  const auto ramp = [](double x) { return 0.05 + 0.95 * x; };
  const auto held_back = [](bool yes) { return yes ? 0.2 : 1.0; };
  if (name == "linear") return 1.0;
  if (name == "ease in") return ramp(1 - t / spatial_count);
  if (name == "ease out") return ramp(t / spatial_count);
  if (name == "ease in-out") return ramp(1 - from_middle);
  if (name == "reverse in-out") return ramp(from_middle);
  if (name == "weak input") return held_back(layer.block == BlockKind::kInput);
  if (name == "weak middle") return held_back(layer.block == BlockKind::kMiddle);
  if (name == "weak output") return held_back(layer.block == BlockKind::kOutput);
  if (name == "strong middle") return held_back(layer.block != BlockKind::kMiddle);
  return std::nullopt;
}

// The presets that pick layers for what they carry. `nullptr` layers: the UNet is not one of those
// for which they are known.
std::optional<double> style_preset(std::string_view name, const StyleLayers& layers, int t) {
  const std::optional<double> style = at(layers.style, t);
  const std::optional<double> composition = at(layers.composition, t);
  if (name == "style transfer") return style;
  if (name == "composition") return composition;
  if (name == "style and composition") return style ? style : composition;
  if (name == "around composition") {  // all but the composition; what is no style either weakly
    return composition ? std::nullopt : std::optional(style.value_or(0.1));
  }
  // strong style transfer: everywhere but where the composition is made
  return composition ? std::nullopt : std::optional(1.0);
}

Weights evaluate(const LayerTable& table, const std::string& preset) {
  const auto& names = weight_presets();
  if (std::find(names.begin(), names.end(), preset) == names.end()) {
    std::string known;
    for (const auto& name : names) known += (known.empty() ? "'" : ", '") + name + "'";
    throw std::invalid_argument("weight: no preset is called '" + preset + "'; there are " + known);
  }
  Weights result;
  for (const Layer& layer : table.layers()) {
    if (const auto weight = ramp_preset(preset, layer, table.spatial_count())) {
      result.push_back(weight);
      continue;
    }
    const auto& known = style_layers();
    const auto it = std::find_if(known.begin(), known.end(), [&](const StyleLayers& layers) {
      return layers.spatial_count == table.spatial_count();
    });
    if (it == known.end()) {
      throw std::invalid_argument("weight: preset '" + preset +
                                  "' is known for SD1.x and SD2.x (16 spatial transformers) " +
                                  "and SDXL (11); this UNet has " +
                                  std::to_string(table.spatial_count()) +
                                  ": give a dict {t: weight} instead");
    }
    result.push_back(style_preset(preset, *it, layer.spatial));
  }
  return result;
}

Weights evaluate(const LayerTable& table, double weight) {
  return Weights(table.layers().size(), weight);
}

Weights evaluate(const LayerTable& table, const SpatialWeights& weights) {
  for (const auto& [t, weight] : weights) {
    if (t < 0 || t >= table.spatial_count()) {
      throw std::invalid_argument("weight: t = " + std::to_string(t) +
                                  " is not a spatial transformer of this UNet; it has 0 to " +
                                  std::to_string(table.spatial_count() - 1));
    }
  }
  Weights result;
  for (const Layer& layer : table.layers()) result.push_back(at(weights, layer.spatial));
  return result;
}

Weights evaluate(const LayerTable& table, const std::vector<double>& weights) {
  if (weights.size() != table.layers().size()) {
    throw std::invalid_argument("weight: expected one number for each of the " +
                                std::to_string(table.size()) + " layers, got " +
                                std::to_string(weights.size()));
  }
  return Weights(weights.begin(), weights.end());
}

// "down.block_2" means "down_blocks.2", "mid" means "mid_block"; other names mean themselves.
std::string full_name(const std::string& name) {
  const auto dot = name.find('.');
  const std::string head = name.substr(0, dot);
  if (head != "down" && head != "up" && head != "mid") return name;
  std::string full = head == "mid" ? "mid_block" : head + "_blocks";
  if (dot == std::string::npos) return full;
  std::string rest = name.substr(dot + 1);
  constexpr std::string_view kBlock = "block_";
  if (rest.starts_with(kBlock)) rest = rest.substr(kBlock.size());
  return full + "." + rest;
}

bool lies_in(std::string_view layer, std::string_view part) {
  return layer.starts_with(part) && (layer.size() == part.size() || layer[part.size()] == '.');
}

// Gives the layers of one part, such as "down_blocks.1", their weights.
void assign_part(const LayerTable& table, const std::string& name, const std::string& part,
                 const std::vector<double>& weights, Weights& result) {
  std::vector<int> spatial;  // those in this part, in forward order
  for (const Layer& layer : table.layers()) {
    if (lies_in(layer.name, part)) spatial.push_back(layer.spatial);
  }
  std::sort(spatial.begin(), spatial.end());
  spatial.erase(std::unique(spatial.begin(), spatial.end()), spatial.end());
  if (spatial.empty()) {
    throw std::invalid_argument("weight: '" + name +
                                "' names no part of this UNet that has cross-attention");
  }
  if (weights.size() != 1 && weights.size() != spatial.size()) {
    throw std::invalid_argument(
        "weight: '" + name + "' takes one number or " + std::to_string(spatial.size()) +
        " (its spatial transformers), got " + std::to_string(weights.size()));
  }
  for (const Layer& layer : table.layers()) {
    if (!lies_in(layer.name, part)) continue;
    const auto place = std::find(spatial.begin(), spatial.end(), layer.spatial) - spatial.begin();
    result[static_cast<size_t>(layer.index)] =
        weights.size() == 1 ? weights[0] : weights[static_cast<size_t>(place)];
  }
}

void assign(const LayerTable& table, const std::string& name, const std::vector<double>& weights,
            Weights& result) {
  const std::string part = full_name(name);
  if (weights.size() == 1 || (name != "down" && name != "up")) {
    return assign_part(table, name, part, weights, result);
  }
  std::set<std::string> blocks;  // such as "down_blocks.1"
  for (const Layer& layer : table.layers()) {
    if (lies_in(layer.name, part)) {
      blocks.insert(layer.name.substr(0, layer.name.find('.', part.size() + 1)));
    }
  }
  if (blocks.empty()) blocks.insert(part);  // which is refused
  for (const auto& block : blocks) assign_part(table, name, block, weights, result);
}

Weights evaluate(const LayerTable& table, const NamedWeights& weights) {
  std::vector<std::string> names;
  for (const auto& [name, values] : weights) names.push_back(name);
  std::stable_sort(names.begin(), names.end(), [](const auto& a, const auto& b) {
    return full_name(a).size() < full_name(b).size();
  });
  Weights result(table.layers().size());
  for (const auto& name : names) assign(table, name, weights.at(name), result);
  return result;
}

}  // namespace

const std::vector<std::string>& weight_presets() {
  static const std::vector<std::string> kNames = {"linear",
                                                  "ease in",
                                                  "ease out",
                                                  "ease in-out",
                                                  "reverse in-out",
                                                  "weak input",
                                                  "weak output",
                                                  "weak middle",
                                                  "strong middle",
                                                  "style transfer",
                                                  "composition",
                                                  "strong style transfer",
                                                  "style and composition",
                                                  "around composition"};
  return kNames;
}

std::vector<std::optional<double>> layer_weights(const LayerTable& table,
                                                 const LayerWeights& weights) {
  Weights result = std::visit([&](const auto& w) { return evaluate(table, w); }, weights);
  for (size_t i = 0; i < result.size(); ++i) {
    if (result[i] && !std::isfinite(*result[i])) {
      throw std::invalid_argument("weight: expected finite numbers, got " +
                                  std::to_string(*result[i]) + " for layer " +
                                  table.layers()[i].name);
    }
  }
  return result;
}

Curve::Curve(std::vector<std::pair<double, double>> points) : points_(std::move(points)) {
  for (size_t i = 0; i < points_.size(); ++i) {
    const auto [progress, factor] = points_[i];
    if (!std::isfinite(progress) || !std::isfinite(factor)) {
      throw std::invalid_argument("curve: expected finite numbers, got (" +
                                  std::to_string(progress) + ", " + std::to_string(factor) + ")");
    }
    if (i > 0 && progress < points_[i - 1].first) {
      throw std::invalid_argument("curve: expected points in order of progress, got " +
                                  std::to_string(progress) + " after " +
                                  std::to_string(points_[i - 1].first));
    }
  }
}

double Curve::operator()(double progress) const {
  if (points_.empty()) return 1.0;
  const auto after = std::upper_bound(points_.begin(), points_.end(), progress,
                                      [](double p, const auto& point) { return p < point.first; });
  if (after == points_.begin()) return points_.front().second;
  const auto before = after - 1;
  if (after == points_.end() || before->first == progress) return before->second;
  return std::lerp(before->second, after->second,
                   (progress - before->first) / (after->first - before->first));
}

bool Window::empty() const {
  return !(start <= end) || start >= 1 || end <= 0 || (end_exclusive && start >= end);
}

bool Window::full() const { return start <= 0 && (end_exclusive ? end > 1 : end >= 1); }

bool Window::contains(double progress) const {
  if (empty()) return false;
  const bool begun = start <= 0 || progress >= start;
  const bool over = end_exclusive ? progress >= end : end < 1 && progress > end;
  return begun && !over;
}

}  // namespace attnpatch::rules
