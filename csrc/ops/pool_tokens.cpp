// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "pool_tokens(Tensor x, int[2] grid, int[2] tile, int[2] offset, int[] window, int[] stride, "
      "str mode, float[] blends) -> Tensor[]");
}
