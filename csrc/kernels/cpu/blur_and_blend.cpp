// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Strategy: a task goes down a block of rows of one channel once. A ring holds the last 2r + 1
// rows, blurred along x; each is made when the first row of the result asks for it, and a row of
// which nothing is masked asks for none. A latent's ring is 2 to 9 KiB, in L1.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/blur_and_blend.cpp"
#include <hwy/foreach_target.h>
// The order matters: the line above includes this file once per instruction set.
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "kernels/blur_and_blend.h"
#include "kernels/cpu/arena.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/task_lots.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The place that i stands for between the borders of [0, size).
inline int64_t reflect(int64_t i, int64_t size) {
  if (i >= 0 && i < size) return i;
  if (size == 1) return 0;
  const int64_t period = 2 * (size - 1);
  i = std::abs(i) % period;
  return HWY_MIN(i, period - i);
}

// In fp32, with torch's rounding.
inline int64_t nearest(int64_t i, int64_t size, int64_t coarse) {
  const float scale = static_cast<float>(coarse) / static_cast<float>(size);
  return HWY_MIN(static_cast<int64_t>(std::floor(static_cast<float>(i) * scale)), coarse - 1);
}

// What all channels share: where each column stands in the coarse grid, and which columns lie
// beyond the borders.
struct Columns {
  std::vector<int64_t> coarse, before, after;

  explicit Columns(const BlurAndBlendParams& p) {
    for (int64_t x = 0; x < p.width; ++x) coarse.push_back(nearest(x, p.width, p.columns));
    for (int64_t i = 0; i < static_cast<int64_t>(p.taps.size()); ++i) {
      before.push_back(reflect(-i, p.width));
      after.push_back(reflect(p.width - 1 + i, p.width));
    }
  }
};

// put(x, taps[0] side(0)[x] + sum over i of taps[i] (side(-i)[x] + side(i)[x])), V vectors from x
// on.
template <int V, typename Side, typename Put>
HWY_INLINE void symmetric_sum_block(const std::vector<float>& taps, const Side& side, int64_t x,
                                    const Put& put) {
  const FloatTag d;
  FloatVec sum[V];
  const FloatVec centre = hn::Set(d, taps[0]);
  for (int v = 0; v < V; ++v) sum[v] = hn::Mul(centre, hn::LoadU(d, side(0) + x + v * kLanes));
  for (int64_t i = 1; i < static_cast<int64_t>(taps.size()); ++i) {
    const FloatVec tap = hn::Set(d, taps[i]);
    const float *before = side(-i) + x, *after = side(i) + x;
    for (int v = 0; v < V; ++v) {
      const FloatVec both =
          hn::Add(hn::LoadU(d, before + v * kLanes), hn::LoadU(d, after + v * kLanes));
      sum[v] = hn::MulAdd(tap, both, sum[v]);
    }
  }
  for (int v = 0; v < V; ++v) put(x + v * kLanes, sum[v]);
}

template <typename Side, typename Put>
HWY_INLINE void symmetric_sum(const std::vector<float>& taps, int64_t width, const Side& side,
                              const Put& put) {
  int64_t x = 0;
  for (; x + 4 * kLanes <= width; x += 4 * kLanes) symmetric_sum_block<4>(taps, side, x, put);
  for (; x < width; x += kLanes) symmetric_sum_block<1>(taps, side, x, put);
}

// The work on one channel. A slot of the ring holds a row blurred along x, and as it is, between
// its reflections.
template <typename Format>
class Channel {
 public:
  using T = typename Format::T;

  Channel(const BlurAndBlendParams& p, const Columns& columns, int64_t b, int64_t c,
          Arena::Scope& memory)
      : p_(&p),
        columns_(&columns),
        in_(static_cast<const T*>(p.in) + b * p.batch_stride + c * p.channel_stride),
        out_(static_cast<T*>(p.out) + (b * p.channels + c) * p.height * p.width),
        saliency_(p.saliency + b * p.rows * p.columns),
        radius_(static_cast<int64_t>(p.taps.size()) - 1),
        width_(round_up(p.width, kLanes)),
        window_(static_cast<size_t>(2 * radius_ + 1)),
        made_(static_cast<size_t>(p.height), nullptr) {
    const int64_t slots = 2 * radius_ + 1;
    ring_ = memory.take(slots * slot_size());
    coarse_ = memory.take(width_);
    row_ = memory.take(width_);
    std::fill_n(coarse_, width_, 0.0f);
  }

  void blend_row(int64_t y) {
    const bool masked = read_saliency(nearest(y, p_->height, p_->rows));
    T* out = out_ + y * p_->width;
    if (!masked || radius_ == 0) {
      copy_row(in_ + y * p_->row_stride, out);
      return;
    }
    for (int64_t i = -radius_; i <= radius_; ++i) {
      window_[i + radius_] = blurred_row(reflect(y + i, p_->height));
    }
    const FloatTag d;
    const float* const plain = window_[radius_] + width_ + radius_;
    const bool direct = std::is_same_v<Format, Float32> && p_->width % kLanes == 0;
    float* const row = direct ? reinterpret_cast<float*>(out) : row_;
    symmetric_sum(
        p_->taps, p_->width, [&](int64_t i) { return window_[i + radius_]; },
        [&](int64_t x, FloatVec blurred) HWY_ATTR {
          const auto on = hn::Gt(hn::Load(d, coarse_ + x), hn::Set(d, p_->threshold));
          hn::StoreU(hn::IfThenElse(on, blurred, hn::LoadU(d, plain + x)), d, row + x);
        });
    if (!direct) store_row<Format>(row_, p_->width, out, 1);
  }

 private:
  int64_t slot_size() const { return 2 * width_ + round_up(2 * radius_, kLanes); }

  void copy_row(const T* in, T* out) {
    if (p_->column_stride == 1) {
      std::memcpy(out, in, sizeof(T) * static_cast<size_t>(p_->width));
    } else {
      for (int64_t x = 0; x < p_->width; ++x) out[x] = in[x * p_->column_stride];
    }
  }

  // Row y blurred along x, out of the ring.
  const float* blurred_row(int64_t y) {
    if (made_[y] == nullptr) make_row(y);
    return made_[y];
  }

  // The slot is that of the row 2r + 1 before, which nothing needs any more.
  void make_row(int64_t y) {
    float* const blurred = ring_ + y % (2 * radius_ + 1) * slot_size();
    float* const plain = blurred + width_ + radius_;
    convert_row<Format>(in_ + y * p_->row_stride, p_->column_stride, p_->width, plain);
    for (int64_t i = 1; i <= radius_; ++i) {
      plain[-i] = plain[columns_->before[i]];
      plain[p_->width - 1 + i] = plain[columns_->after[i]];
    }
    symmetric_sum(
        p_->taps, p_->width, [&](int64_t i) { return plain + i; },
        [&](int64_t x, FloatVec sum) HWY_ATTR { hn::StoreU(sum, FloatTag(), blurred + x); });
    made_[y] = blurred;
  }

  // Spreads a row of the saliency over the columns; is anything in it above the threshold?
  bool read_saliency(int64_t coarse_row) {
    if (coarse_row == coarse_row_) return any_;
    coarse_row_ = coarse_row;
    const float* saliency = saliency_ + coarse_row * p_->columns;
    any_ = std::any_of(saliency, saliency + p_->columns,
                       [&](float value) { return value > p_->threshold; });
    if (any_) {
      for (int64_t x = 0; x < p_->width; ++x) coarse_[x] = saliency[columns_->coarse[x]];
    }
    return any_;
  }

  const BlurAndBlendParams* p_;
  const Columns* columns_;
  const T* in_;
  T* out_;
  const float* saliency_;
  int64_t radius_, width_;
  std::vector<const float*> window_;
  std::vector<const float*> made_;  // where in the ring each row is, or was
  float *ring_, *coarse_, *row_;
  int64_t coarse_row_ = -1;
  bool any_ = false;
};

template <typename Format>
void run(const BlurAndBlendParams& p) {
  // Each block makes the 2r rows before it anew.
  const int64_t block = HWY_MAX(int64_t{64}, 8 * static_cast<int64_t>(p.taps.size()));
  const int64_t blocks = (p.height + block - 1) / block;
  const Columns columns(p);
  const auto taps = static_cast<int64_t>(p.taps.size());
  const int64_t work = 4 * p.batch * p.channels * p.height * p.width * taps;
  TaskLots lots(p.batch * p.channels, blocks, useful_threads(p, work));
  run_workers(p, lots, [&](TaskLots::Worker& worker) {
    for (int64_t task; (task = worker.take()) >= 0;) {
      Arena::Scope memory(thread_arena());
      const int64_t plane = task / blocks;
      const int64_t begin = task % blocks * block;
      Channel<Format> channel(p, columns, plane / p.channels, plane % p.channels, memory);
      for (int64_t y = begin; y < HWY_MIN(begin + block, p.height); ++y) channel.blend_row(y);
    }
  });
}

void blur_and_blend(const BlurAndBlendParams& params) {
  with_dtype(params.dtype, [&]<class Format>() { run<Format>(params); });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnpatch::kernels {

HWY_EXPORT(blur_and_blend);

void blur_and_blend_cpu(const BlurAndBlendParams& params) {
  if (params.batch * params.channels * params.height * params.width == 0) return;
  HWY_DYNAMIC_DISPATCH(blur_and_blend)(params);
}

}  // namespace attnpatch::kernels
#endif  // HWY_ONCE
