// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Tile attention and pooling on a CUDA device, against the CPU's kernels; skipped without one.

#include "gpu.h"
#include "token_reduction_problem.h"

namespace attnpatch::kernels {
namespace {

class TokenReductionCuda : public OnGpu<TilingShape> {
 protected:
  template <typename T>
  static void expect_same_attention() {
    const auto run = [](const TileAttentionParams& params) {
      tile_attention_cuda(params, nullptr);
      wait_for_gpu("tile_attention");
    };
    EXPECT_LT((tile_attention_error<T, GpuMemory>(GetParam(), run)), rounding<T>());
  }

  template <typename T>
  static void expect_same_pooling(bool largest) {
    const auto run = [](const PoolTokensParams& params) {
      pool_tokens_cuda(params, nullptr);
      wait_for_gpu("pool_tokens");
    };
    EXPECT_LT((pool_tokens_error<T, GpuMemory>(GetParam(), largest, run)), rounding<T>());
  }
};

TEST_P(TokenReductionCuda, AttentionInFloat16) { expect_same_attention<__half>(); }
TEST_P(TokenReductionCuda, AttentionInBFloat16) { expect_same_attention<__nv_bfloat16>(); }
TEST_P(TokenReductionCuda, MeansInFloat16) { expect_same_pooling<__half>(false); }
TEST_P(TokenReductionCuda, MeansInBFloat16) { expect_same_pooling<__nv_bfloat16>(false); }
TEST_P(TokenReductionCuda, LargestInFloat32) { expect_same_pooling<float>(true); }

INSTANTIATE_TEST_SUITE_P(Shapes, TokenReductionCuda, testing::ValuesIn(kTilingShapes));

}  // namespace
}  // namespace attnpatch::kernels
