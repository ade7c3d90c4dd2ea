// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// A bias of low rank as channels of queries and keys, whose products are its terms.

#pragma once

#include <cstdint>
#include <vector>

#include "kernels/biased_attention.h"

namespace attnpatch::kernels {

// Rows (1 or batch, tokens) of channels, in fp32.
class BiasChannels {
 public:
  // The products carry the factor log2(e).
  explicit BiasChannels(const BiasedAttentionParams& params);

  int64_t count = 0;  // channels
  int64_t width = 0;  // the same, rounded up to a multiple of four: the others are 0

  const float* of_query(int64_t b, int64_t token) const {
    return of_queries_.data() + (b * query_batch_stride_ + token) * width;
  }
  const float* of_key(int64_t b, int64_t token) const {
    return of_keys_.data() + (b * key_batch_stride_ + token) * width;
  }

 private:
  int64_t query_batch_stride_ = 0, key_batch_stride_ = 0;  // in tokens
  std::vector<float> of_queries_, of_keys_;
};

}  // namespace attnpatch::kernels
