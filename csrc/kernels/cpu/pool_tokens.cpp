// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Strategy: one pass over the pooled tokens. The rows of a window are added up, or compared, in one
// row of fp32 that stays in L1 (5 KiB for 1280 channels); every blend is written from that row, so
// that x is read once for all of them. Blends of 0 alone read no window.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/pool_tokens.cpp"
#include <hwy/foreach_target.h>
// The order matters: the line above includes this file once per instruction set.
#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/task_lots.h"
#include "kernels/cpu/vector_math-inl.h"
#include "kernels/pool_tokens.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The tokens of the grid in the window of a tile's pooled token; its own comes first.
void collect_window(const PoolTokensParams& p, const Rectangle& tile, int64_t index,
                    std::vector<int64_t>& tokens) {
  tokens.clear();
  const auto add = [&](int64_t y, int64_t x) {
    tokens.push_back((tile.top + y) * p.tiling.width + tile.left + x);
  };
  if (p.stride.along_tokens) {
    const int64_t first = index * p.stride.across;
    const int64_t last = std::min(first + p.window_across, tile.tokens());
    for (int64_t i = first; i < last; ++i) add(i / tile.width, i % tile.width);
    return;
  }
  const int64_t columns = (tile.width + p.stride.across - 1) / p.stride.across;
  const int64_t top = index / columns * p.stride.down;
  const int64_t left = index % columns * p.stride.across;
  const int64_t bottom = std::min(top + p.window_down, tile.height);
  const int64_t right = std::min(left + p.window_across, tile.width);
  for (int64_t y = top; y < bottom; ++y) {
    for (int64_t x = left; x < right; ++x) add(y, x);
  }
}

// One row of x in whole vectors: itself, or converted.
template <typename Format>
const float* whole_row(const typename Format::T* row, int64_t stride, int64_t size,
                       float* scratch) {
  if (size % kLanes == 0) return load_lanes<Format>(row, stride, size, scratch);
  convert_row<Format>(row, stride, size, scratch);
  return scratch;
}

// to = combine(to, row), in whole vectors.
template <typename Combine>
HWY_INLINE void combine_row(const float* row, int64_t size, const Combine& combine, float* to) {
  const FloatTag d;
  for (int64_t c = 0; c < size; c += kLanes) {
    hn::Store(combine(hn::Load(d, to + c), hn::LoadU(d, row + c)), d, to + c);
  }
}

// The window's pooled row; `first` is its first.
template <typename Format>
void pool_window(const PoolTokensParams& p, const typename Format::T* x,
                 const std::vector<int64_t>& tokens, const float* first, float* scratch,
                 float* pooled) {
  const FloatTag d;
  const int64_t size = p.channels;
  for (int64_t c = 0; c < size; c += kLanes) hn::Store(hn::LoadU(d, first + c), d, pooled + c);
  for (size_t i = 1; i < tokens.size(); ++i) {
    const float* row =
        whole_row<Format>(x + tokens[i] * p.token_stride, p.channel_stride, size, scratch);
    if (p.largest) {
      combine_row(
          row, size,
          [](FloatVec a, FloatVec b) HWY_ATTR {
            return hn::IfThenElse(hn::Or(hn::Gt(b, a), hn::IsNaN(b)), b, a);  // NaN stays
          },
          pooled);
    } else {
      combine_row(
          row, size, [](FloatVec a, FloatVec b) HWY_ATTR { return hn::Add(a, b); }, pooled);
    }
  }
  if (p.largest) return;
  const FloatVec count = hn::Set(d, static_cast<float>(tokens.size()));
  for (int64_t c = 0; c < size; c += kLanes) {
    hn::Store(hn::Div(hn::Load(d, pooled + c), count), d, pooled + c);
  }
}

// One row of one result; `scratch` may hold `one` or `pooled`.
template <typename Format>
void write_blend(const float* one, const float* pooled, float blend, int64_t size, float* scratch,
                 typename Format::T* out) {
  if (blend == 0.0f) return store_row<Format>(one, size, out, 1);
  if (blend == 1.0f) return store_row<Format>(pooled, size, out, 1);
  const FloatTag d;
  const FloatVec share = hn::Set(d, blend);
  for (int64_t c = 0; c < size; c += kLanes) {
    const FloatVec a = hn::LoadU(d, one + c), b = hn::Load(d, pooled + c);
    hn::Store(hn::MulAdd(share, hn::Sub(b, a), a), d, scratch + c);
  }
  store_row<Format>(scratch, size, out, 1);
}

// The working memory of one thread: rows of whole vectors, and a window's tokens.
struct PoolScratch {
  float *own, *pooled, *row;
  std::vector<int64_t> tokens;

  PoolScratch(Arena::Scope& memory, int64_t channels) {
    const int64_t row_size = round_up(channels, 16);
    own = memory.take(row_size);
    pooled = memory.take(row_size);
    row = memory.take(row_size);
  }
};

// One row of every result: a pooled token of a row of the batch.
template <typename Format>
void pool_row(const PoolTokensParams& p, const std::vector<int64_t>& starts, int64_t row,
              bool reads_window, PoolScratch& scratch) {
  using T = typename Format::T;
  const int64_t b = row / starts.back(), index = row % starts.back();
  const auto tile = std::upper_bound(starts.begin(), starts.end(), index) - starts.begin() - 1;
  std::vector<int64_t>& tokens = scratch.tokens;
  collect_window(p, p.tiling.tile(tile), index - starts[tile], tokens);
  const T* x = static_cast<const T*>(p.x) + b * p.batch_stride;
  const float* one =
      whole_row<Format>(x + tokens[0] * p.token_stride, p.channel_stride, p.channels, scratch.own);
  if (reads_window) pool_window<Format>(p, x, tokens, one, scratch.row, scratch.pooled);
  for (size_t i = 0; i < p.blends.size(); ++i) {
    write_blend<Format>(one, scratch.pooled, p.blends[i], p.channels, scratch.row,
                        static_cast<T*>(p.out[i]) + row * p.channels);
  }
}

template <typename Format>
void run(const PoolTokensParams& p) {
  const std::vector<int64_t> starts = pooled_starts(p.tiling, p.stride);
  const bool reads_windows =
      std::any_of(p.blends.begin(), p.blends.end(), [](float blend) { return blend != 0.0f; });
  // A float that is read takes as long as some multiply-adds. A task is a few rows.
  const int64_t floats = p.batch * p.tiling.height * p.tiling.width * p.channels;
  const int64_t rows = p.batch * starts.back(), workers = useful_threads(p, 8 * floats);
  constexpr int64_t kRows = 16;
  TaskLots lots(workers, (rows + workers * kRows - 1) / (workers * kRows), workers);
  run_workers(p, lots, [&](TaskLots::Worker& worker) {
    Arena::Scope memory(thread_arena());
    PoolScratch scratch(memory, p.channels);
    for (int64_t task; (task = worker.take()) >= 0;) {
      const int64_t end = HWY_MIN((task + 1) * kRows, rows);
      for (int64_t row = task * kRows; row < end; ++row) {
        pool_row<Format>(p, starts, row, reads_windows, scratch);
      }
    }
  });
}

void pool_tokens(const PoolTokensParams& params) {
  with_dtype(params.dtype, [&]<class Format>() { run<Format>(params); });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnpatch::kernels {

HWY_EXPORT(pool_tokens);

void pool_tokens_cpu(const PoolTokensParams& params) {
  if (params.batch * params.channels == 0 || params.blends.empty()) return;
  HWY_DYNAMIC_DISPATCH(pool_tokens)(params);
}

}  // namespace attnpatch::kernels
#endif  // HWY_ONCE
