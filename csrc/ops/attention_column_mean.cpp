// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "attention_column_mean(Tensor q, Tensor k, Tensor v, int[]? rows=None, float? scale=None) -> "
      "(Tensor out, Tensor column_mean)");
}
