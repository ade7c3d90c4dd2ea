// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "rules/layer.h"

namespace attnpatch::rules {

// One block of a UNet: its channels and, for each of its residual layers, the number of
// transformer blocks of the spatial transformer that follows it (0: no attention there).
struct BlockDescription {
  int channels = 0;
  std::vector<int> depths;
};

// A UNet of Stable Diffusion's structure: input blocks, each but the last followed by a halving;
// perhaps attention in the middle; as many output blocks, deepest first.
struct UNetDescription {
  std::vector<BlockDescription> input;
  std::optional<BlockDescription> middle;  // one depth
  std::vector<BlockDescription> output;
};

// The cross-attention layers of a UNet, in checkpoint order: input, output, middle.
class LayerTable {
 public:
  // Throws std::invalid_argument unless the layers' indices count 0, 1, 2, ….
  explicit LayerTable(std::vector<Layer> layers);

  // The same layers in a model whose self-attention has so many heads at each of them; 0: there is
  // none. Throws std::invalid_argument unless that is one number of at least 0 a layer.
  LayerTable with_heads(std::vector<int> heads) const;

  const std::vector<Layer>& layers() const { return layers_; }
  // How many heads self-attention has at each layer, 0 where there is none; empty where nobody has
  // said.
  const std::vector<int>& heads() const { return heads_; }
  int size() const { return static_cast<int>(layers_.size()); }
  // How many spatial transformers there are: 16 in SD1.x and SD2.x, 11 in SDXL.
  int spatial_count() const { return spatial_count_; }
  // "SD1.x/SD2.x", "SDXL", or "custom".
  std::string_view family() const;

  // The layer of this place; nullptr where there is none, such as ("middle", 1, 0).
  const Layer* find(BlockKind block, int number, int transformer) const;
  // The layer of this name; what may follow it (".attn2", ".attn2.processor") is ignored.
  const Layer* find(std::string_view name) const;

  // By the layers alone: SD1.x and SD2.x differ in heads only.
  bool operator==(const LayerTable& other) const { return layers_ == other.layers_; }

 private:
  std::vector<Layer> layers_;
  std::vector<int> heads_;
  int spatial_count_ = 0;
};

// Throws std::invalid_argument, naming the part that is wrong.
LayerTable make_layer_table(const UNetDescription& description);

// The table of "sd1", "sd2" or "sdxl".
const LayerTable& layer_table(std::string_view family);

}  // namespace attnpatch::rules
