// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "rules/layer.h"

#include <stdexcept>
#include <string>
#include <string_view>

namespace attnpatch::rules {

std::string_view to_string(BlockKind kind) {
  switch (kind) {
    case BlockKind::kInput:
      return "input";
    case BlockKind::kMiddle:
      return "middle";
    case BlockKind::kOutput:
      return "output";
  }
  throw std::invalid_argument("block: not one of the kinds input, middle, output");
}

BlockKind parse_block_kind(std::string_view name) {
  for (BlockKind kind : {BlockKind::kInput, BlockKind::kMiddle, BlockKind::kOutput}) {
    if (name == to_string(kind)) return kind;
  }
  throw std::invalid_argument("block: expected 'input', 'middle' or 'output', got '" +
                              std::string(name) + "'");
}

std::string_view spatial_name(const Layer& layer) {
  const std::string_view name = layer.name;
  return name.substr(0, name.rfind(".transformer_blocks."));
}

GridSize token_grid(int height, int width, int level) {
  if (height < 1 || width < 1) {
    throw std::invalid_argument("latent: expected height and width of at least 1, got " +
                                std::to_string(height) + "x" + std::to_string(width));
  }
  if (level < 0) {
    throw std::invalid_argument("level: expected 0 or more, got " + std::to_string(level));
  }
  for (; level > 0 && (height > 1 || width > 1); --level) {
    height -= height / 2;
    width -= width / 2;
  }
  return {height, width};
}

}  // namespace attnpatch::rules
