// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "tile_attention(Tensor q, Tensor k, Tensor v, int[2] grid, int[2] tile, int[2] offset, "
      "int[] stride, Tensor? shared_k=None, Tensor? shared_v=None, float? scale=None) -> Tensor");
}
