// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <string>
#include <string_view>

#include "rules/grid.h"

namespace attnpatch::rules {

enum class BlockKind { kInput, kMiddle, kOutput };

// "input", "middle" or "output".
std::string_view to_string(BlockKind kind);
// Throws std::invalid_argument for any other name.
BlockKind parse_block_kind(std::string_view name);

// One cross-attention layer of a UNet: where it stands, under every name that hosts and
// checkpoints have for it.
struct Layer {
  int index = 0;  // place in checkpoint order: input, output, middle
  BlockKind block = BlockKind::kInput;
  int number = 0;       // the block's number, counted as in the original code of Stable Diffusion
  int transformer = 0;  // which transformer block inside its spatial transformer
  int channels = 0;
  int level = 0;     // 0: the latent's own grid; each level halves it, rounding up
  int spatial = 0;   // the spatial transformer's number in forward order: input, middle, output
  std::string name;  // as in "down_blocks.1.attentions.0.transformer_blocks.0"

  bool operator==(const Layer&) const = default;
};

// As in "down_blocks.1.attentions.0": the name without the transformer block.
std::string_view spatial_name(const Layer& layer);

// The token grid of a latent at a level: halved `level` times, rounding up, as the UNet's strided
// convolutions do. Throws std::invalid_argument for a size below 1 or a negative level.
GridSize token_grid(int height, int width, int level);

}  // namespace attnpatch::rules
