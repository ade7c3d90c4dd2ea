// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// A tile of queries along the lanes of W = 1 to 4 vectors: its working memory, and the way in from
// the rows of a tensor and back. Included once per instruction set.

#if defined(ATTNPATCH_QUERY_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_QUERY_TILE_INL_H_
#undef ATTNPATCH_QUERY_TILE_INL_H_
#else
#define ATTNPATCH_QUERY_TILE_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/vector_math-inl.h"
#include "kernels/views.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Vectors in a full tile. Two give AVX2's 16 registers eight sums at work, which is what two
// multiply-adds a cycle with a latency of four want; three measured slower. Of AVX-512's, three
// leave more of the first cache to scores than four: 3 % faster where that is 32 KiB.
constexpr int kTileVectors = kLanes == 16 ? 3 : kLanes == 8 ? 2 : 4;

// Rows of a tensor to ask for ahead of their use: a head's rows lie apart, out of reach of the
// hardware's prefetch. They are asked for in equal shares, since a core waits when it asks for many
// at a time.
class RowsAhead {
 public:
  RowsAhead() = default;
  template <typename T>
  RowsAhead(const T* rows, int64_t stride, int64_t count, int64_t size, int64_t shares)
      : row_(reinterpret_cast<const char*>(rows)),
        stride_(stride * static_cast<int64_t>(sizeof(T))),
        bytes_(size * static_cast<int64_t>(sizeof(T))),
        left_(count),
        share_((count + shares - 1) / shares) {}

  HWY_INLINE void send_share() {
    constexpr int64_t kLine = 64;
    for (int64_t i = HWY_MIN(share_, left_); i > 0; --i, --left_, row_ += stride_) {
      for (int64_t byte = 0; byte < bytes_; byte += kLine) hwy::Prefetch(row_ + byte);
    }
  }

 private:
  const char* row_ = nullptr;
  int64_t stride_ = 0, bytes_ = 0, left_ = 0, share_ = 0;
};

// The working memory of one thread: queries [channel][W], scores [key][W], part and out
// [channel][W], and rows.
struct Scratch {
  float *queries, *scores, *part, *out, *rows;
  int64_t row_size;
  RowsAhead next_queries, results;

  // With each panel of keys.
  HWY_INLINE void send_requests() {
    next_queries.send_share();
    results.send_share();
  }

  Scratch(Arena::Scope& memory, int64_t key_count, int64_t size)
      : row_size(round_up(size, kLanes > 4 ? kLanes : 4)) {
    constexpr int64_t kWidth = kTileVectors * kLanes;
    queries = memory.take(row_size * kWidth);
    scores = memory.take(round_up(key_count, 4) * kWidth);
    part = memory.take(row_size * kWidth);
    out = memory.take(row_size * kWidth);
    rows = memory.take(row_size * kLanes);
  }
};

// Are whole rows read as they stand, four lanes at a time?
template <typename Format>
bool read_in_place(const AttentionView& view, int64_t size) {
  return kRowsAreLanes<Format> && view.channel_stride == 1 &&
         size % (4 * Format::Products::kTerms) == 0;
}

// Are they written so? Results are fp32.
template <typename Format>
bool written_in_place(const AttentionView& view, int64_t size) {
  return std::is_same_v<Format, Float32> && read_in_place<Format>(view, size);
}

// Tokens of a tensor that become a tile, or that a tile is written to.
struct TileRows {
  const AttentionView* view;  // of their tensor
  int64_t count, size;        // of the tokens; of one, in channels
  int64_t width;              // of the tile: W
  float* copies;              // memory for kLanes rows of row_size
  int64_t row_size;
};

// queries[channel][W], times the factor, of the rows, or their pairs without it, which is then one
// of the scores; lanes past the last repeat one of them.
template <typename Format>
void load_rows(const TileRows& tile, const typename Format::T* const* tokens, float factor,
               float* queries) {
  using Products = typename Format::Products;
  const bool direct = read_in_place<Format>(*tile.view, tile.size);
  for (int64_t base = 0; base < tile.width; base += kLanes) {
    const float* rows[kLanes] = {};
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      float* copy = tile.copies + lane * tile.row_size;
      if (base + lane >= tile.count) {
        rows[lane] = rows[0];
      } else if (direct) {
        rows[lane] = reinterpret_cast<const float*>(tokens[base + lane]);
      } else {
        copy_lanes<Format>(tokens[base + lane], tile.view->channel_stride, tile.size, copy);
        rows[lane] = copy;
      }
    }
    const int64_t lanes = round_up(lanes_of<Products>(tile.size), 4);
    columns_from_rows<Products>(rows, lanes, factor, tile.width, queries + base);
  }
}

// The way back: out[channel][W] into the rows.
template <typename Format>
void store_rows(const TileRows& tile, const float* out, typename Format::T* const* tokens) {
  const bool direct = written_in_place<Format>(*tile.view, tile.size);
  for (int64_t base = 0; base < tile.count; base += kLanes) {
    const int64_t used = HWY_MIN(kLanes, tile.count - base);
    float* rows[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      rows[lane] = tile.copies + lane * tile.row_size;
      if (lane < used && direct) rows[lane] = reinterpret_cast<float*>(tokens[base + lane]);
    }
    rows_from_columns(out + base, round_up(tile.size, 4), tile.width, rows);
    if (direct) continue;
    for (int64_t lane = 0; lane < used; ++lane) {
      store_row<Format>(rows[lane], tile.size, tokens[base + lane], tile.view->channel_stride);
    }
  }
}

// The same for neighbouring tokens, q being the first.
template <typename Format>
void load_queries(const TileRows& tile, const typename Format::T* q, float factor, float* queries) {
  const typename Format::T* tokens[kTileVectors * kLanes] = {};
  for (int64_t i = 0; i < tile.count; ++i) tokens[i] = q + i * tile.view->token_stride;
  load_rows<Format>(tile, tokens, factor, queries);
}

template <typename Format>
void store_output(const TileRows& tile, const float* found, typename Format::T* out) {
  typename Format::T* tokens[kTileVectors * kLanes] = {};
  for (int64_t i = 0; i < tile.count; ++i) tokens[i] = out + i * tile.view->token_stride;
  store_rows<Format>(tile, found, tokens);
}

// Calls body with the number of vectors, at most Most, as a constant.
template <int Most, typename Body>
void with_vectors(int64_t vectors, const Body& body) {
  switch (vectors) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
    default:
      return body(std::integral_constant<int, Most>());
  }
}

// Queries [begin, end) of one head, and where their results go.
struct HeadQueries {
  const AttentionView *q, *out;
  int64_t b, h, begin, end, size;
  float factor;    // of the scores
  int64_t panels;  // of keys, with each of which scratch.send_requests() is called
  struct {
    int64_t h, begin, end;
  } after = {};  // these: the queries that their thread comes to next

  // The rows from number `next` on, `width` at most, or those that come after these.
  template <typename T>
  RowsAhead rows_ahead(int64_t next, int64_t width, int64_t shares) const {
    const bool own = next < end;
    const int64_t first = own ? next : after.begin, last = own ? end : after.end;
    return RowsAhead(head_of<T>(*q, b, own ? h : after.h) + first * q->token_stride,
                     q->token_stride, HWY_MIN(last - first, width), size, shares);
  }
};

// Loads tile after tile, calls body(vectors, query, count) with the vectors as a constant, the
// first query and how many there are, and stores what it left in scratch.out.
template <typename Format, typename Body>
void for_each_tile(const HeadQueries& a, Scratch& scratch, const Body& body) {
  using T = typename Format::T;
  const T* q = head_of<T>(*a.q, a.b, a.h);
  T* out = const_cast<T*>(head_of<T>(*a.out, a.b, a.h));
  const int64_t q_stride = a.q->token_stride, out_stride = a.out->token_stride;
  for (int64_t query = a.begin; query < a.end;) {
    const int64_t left = a.end - query;
    const int64_t vectors = HWY_MIN(kTileVectors, (left + kLanes - 1) / kLanes);
    const int64_t width = vectors * kLanes;
    const int64_t count = HWY_MIN(left, width);
    TileRows tile{a.q, count, a.size, width, scratch.rows, scratch.row_size};
    load_queries<Format>(tile, q + query * q_stride, a.factor, scratch.queries);
    const int64_t shares = HWY_MAX(a.panels, int64_t{1});
    scratch.next_queries = a.rows_ahead<T>(query + count, width, shares);
    scratch.results = RowsAhead(out + query * out_stride, out_stride, count, a.size, shares);
    with_vectors<kTileVectors>(vectors, [&](auto v) { body(v, query, count); });
    tile.view = a.out;
    store_output<Format>(tile, scratch.out, out + query * out_stride);
    query += count;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_QUERY_TILE_INL_H_
