// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "rules/layer_table.h"

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attnpatch::rules {
namespace {

// Collects the layers of one block after the other.
class TableBuilder {
 public:
  // A spatial transformer of `depth` blocks; none where depth is 0.
  void add(BlockKind block, int number, int level, int channels, int depth,
           const std::string& name) {
    if (depth == 0) return;
    auto& layers = block == BlockKind::kMiddle  ? middle_
                   : block == BlockKind::kInput ? input_
                                                : output_;
    for (int i = 0; i < depth; ++i) {
      layers.push_back({.block = block,
                        .number = number,
                        .transformer = i,
                        .channels = channels,
                        .level = level,
                        .spatial = spatial_,
                        .name = name + ".transformer_blocks." + std::to_string(i)});
    }
    ++spatial_;
  }

  std::vector<Layer> in_checkpoint_order() && {
    std::vector<Layer> layers = std::move(input_);
    layers.insert(layers.end(), output_.begin(), output_.end());
    layers.insert(layers.end(), middle_.begin(), middle_.end());
    for (size_t i = 0; i < layers.size(); ++i) layers[i].index = static_cast<int>(i);
    return layers;
  }

 private:
  std::vector<Layer> input_, middle_, output_;
  int spatial_ = 0;
};

void check_block(const BlockDescription& block, const std::string& what) {
  if (block.channels < 1) {
    throw std::invalid_argument(what + ": expected channels of at least 1, got " +
                                std::to_string(block.channels));
  }
  for (int depth : block.depths) {
    if (depth < 0) {
      throw std::invalid_argument(what + ": expected transformer depths of at least 0, got " +
                                  std::to_string(depth));
    }
  }
}

void check(const UNetDescription& description) {
  const size_t levels = description.input.size();
  if (levels == 0) throw std::invalid_argument("input: expected at least one block, got none");
  if (description.output.size() != levels) {
    throw std::invalid_argument("output: expected as many blocks as input has, " +
                                std::to_string(levels) + ", got " +
                                std::to_string(description.output.size()));
  }
  for (size_t i = 0; i < levels; ++i) {
    check_block(description.input[i], "input block " + std::to_string(i));
    check_block(description.output[i], "output block " + std::to_string(i));
  }
  if (!description.middle) return;
  check_block(*description.middle, "middle block");
  if (description.middle->depths.size() > 1) {
    throw std::invalid_argument("middle block: expected one transformer depth, got " +
                                std::to_string(description.middle->depths.size()));
  }
}

std::string attention_name(const char* blocks, size_t block, size_t attention) {
  return std::string(blocks) + "." + std::to_string(block) + ".attentions." +
         std::to_string(attention);
}

BlockDescription uniform(int channels, int layers, int depth) {
  return {channels, std::vector<int>(static_cast<size_t>(layers), depth)};
}

LayerTable sd1_table() {
  return make_layer_table(
      {.input = {uniform(320, 2, 1), uniform(640, 2, 1), uniform(1280, 2, 1), uniform(1280, 2, 0)},
       .middle = uniform(1280, 1, 1),
       .output = {uniform(1280, 3, 0), uniform(1280, 3, 1), uniform(640, 3, 1),
                  uniform(320, 3, 1)}});
}

LayerTable sdxl_table() {
  return make_layer_table(
      {.input = {uniform(320, 2, 0), uniform(640, 2, 2), uniform(1280, 2, 10)},
       .middle = uniform(1280, 1, 10),
       .output = {uniform(1280, 3, 10), uniform(640, 3, 2), uniform(320, 3, 0)}});
}

// SD1.x has eight heads everywhere.
LayerTable with_eight_heads(const LayerTable& table) {
  return table.with_heads(std::vector<int>(table.layers().size(), 8));
}

// SD2.x and SDXL have heads of 64 channels.
LayerTable with_wide_heads(const LayerTable& table) {
  std::vector<int> heads;
  for (const Layer& layer : table.layers()) heads.push_back(layer.channels / 64);
  return table.with_heads(std::move(heads));
}

}  // namespace

LayerTable::LayerTable(std::vector<Layer> layers) : layers_(std::move(layers)) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (layers_[i].index != static_cast<int>(i)) {
      throw std::invalid_argument("layers: expected the indices 0, 1, 2, … in order, got " +
                                  std::to_string(layers_[i].index) + " at place " +
                                  std::to_string(i));
    }
    spatial_count_ = std::max(spatial_count_, layers_[i].spatial + 1);
  }
}

LayerTable LayerTable::with_heads(std::vector<int> heads) const {
  if (heads.size() != layers_.size()) {
    throw std::invalid_argument("heads: expected one number for each of " +
                                std::to_string(layers_.size()) + " layers, got " +
                                std::to_string(heads.size()));
  }
  for (int count : heads) {
    if (count < 0) {
      throw std::invalid_argument("heads: expected at least 0, got " + std::to_string(count));
    }
  }
  LayerTable table = *this;
  table.heads_ = std::move(heads);
  return table;
}

std::string_view LayerTable::family() const {
  if (*this == layer_table("sd1")) return "SD1.x/SD2.x";
  if (*this == layer_table("sdxl")) return "SDXL";
  return "custom";
}

const Layer* LayerTable::find(BlockKind block, int number, int transformer) const {
  const auto it = std::find_if(layers_.begin(), layers_.end(), [&](const Layer& layer) {
    return layer.block == block && layer.number == number && layer.transformer == transformer;
  });
  return it == layers_.end() ? nullptr : &*it;
}

const Layer* LayerTable::find(std::string_view name) const {
  const auto it = std::find_if(layers_.begin(), layers_.end(), [&](const Layer& layer) {
    return name.starts_with(layer.name) &&
           (name.size() == layer.name.size() || name[layer.name.size()] == '.');
  });
  return it == layers_.end() ? nullptr : &*it;
}

LayerTable make_layer_table(const UNetDescription& description) {
  check(description);
  const size_t levels = description.input.size();
  TableBuilder builder;

  int number = 1;  // input block 0 is the first convolution
  for (size_t i = 0; i < levels; ++i) {
    const BlockDescription& block = description.input[i];
    for (size_t j = 0; j < block.depths.size(); ++j) {
      builder.add(BlockKind::kInput, number++, static_cast<int>(i), block.channels, block.depths[j],
                  attention_name("down_blocks", i, j));
    }
    ++number;  // the halving is a block of its own
  }
  if (description.middle && !description.middle->depths.empty()) {
    builder.add(BlockKind::kMiddle, 0, static_cast<int>(levels) - 1, description.middle->channels,
                description.middle->depths[0], "mid_block.attentions.0");
  }
  number = 0;
  for (size_t i = 0; i < levels; ++i) {
    const BlockDescription& block = description.output[i];
    for (size_t j = 0; j < block.depths.size(); ++j) {
      builder.add(BlockKind::kOutput, number++, static_cast<int>(levels - 1 - i), block.channels,
                  block.depths[j], attention_name("up_blocks", i, j));
    }
  }
  return LayerTable(std::move(builder).in_checkpoint_order());
}

const LayerTable& layer_table(std::string_view family) {
  static const LayerTable kSd1 = with_eight_heads(sd1_table());
  static const LayerTable kSd2 = with_wide_heads(sd1_table());
  static const LayerTable kSdxl = with_wide_heads(sdxl_table());
  if (family == "sd1") return kSd1;
  if (family == "sd2") return kSd2;
  if (family == "sdxl") return kSdxl;
  throw std::invalid_argument("family: expected 'sd1', 'sd2' or 'sdxl', got '" +
                              std::string(family) + "'");
}

}  // namespace attnpatch::rules
