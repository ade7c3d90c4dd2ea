// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// How the kernels see tensors.

#pragma once

#include <cstdint>

namespace attnpatch::kernels {

// Of a tensor's values.
enum class Dtype { kFloat32, kFloat16, kBFloat16 };

// A tensor (batch, heads, tokens, head size): where it starts, and its strides in elements.
struct AttentionView {
  const void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t head_stride = 0;
  int64_t token_stride = 0;
  int64_t channel_stride = 1;
};

}  // namespace attnpatch::kernels
