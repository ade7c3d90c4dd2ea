// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(attnpatch, m) {
  m.def(
      "blur_and_blend(Tensor x0, Tensor saliency, float sigma, float threshold=1.0, "
      "int kernel_size=9) -> Tensor");
}
