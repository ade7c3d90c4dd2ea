// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What a row of the batch attends to in branch_attention, and its keys and values in shared memory.

#pragma once

#include "kernels/cuda/branch_attention_plan.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/rows.cuh"

namespace attnpatch::kernels::device {

struct Segment {
  int branch;    // -1: the text
  int tokens;    // > 0
  int first;     // row in shared memory, where all stay there
  int64_t row;   // of the branch's keys and values
  float weight;  // 1 for the text
};

struct Segments {
  Segment list[kMostBranches + 1];
  int count;
  int grouped;   // how many, from the first, are one softmax: the text, and what shares it
  bool missing;  // a row of keys was asked for that is not there
};

// Lists what row b of the batch attends to. One thread does it for its block.
ATTNPATCH_DEVICE void collect_segments(const BranchAttentionArguments& p, int64_t b,
                                       Segments& segments) {
  int count = 0, rows = 0;
  segments.grouped = 0;
  segments.missing = false;
  for (int i = -1; i < p.branch_count; ++i) {
    Segment s{i, static_cast<int>(p.keys), rows, b, 1.0f};
    if (i >= 0) {
      s.tokens = static_cast<int>(p.branches[i].tokens);
      s.row = p.branches[i].rows[b];
      s.weight = p.branches[i].weights[b];
      if (s.row >= p.branches[i].row_count) {
        segments.missing = true;
        continue;
      }
    }
    if (s.tokens == 0 || s.row < 0 || s.weight == 0.0f) continue;
    segments.list[count++] = s;
    rows += (s.tokens + 15) / 16 * 16;
    if (i < p.shared_softmax) segments.grouped = count;
  }
  segments.count = count;
}

// Weight times mask of a segment for one query; 0 where the mask is, whatever the weight. Not a
// number where the share of a softmax would be below 0.
ATTNPATCH_DEVICE float factor_of(const BranchAttentionArguments& p, const Segment& s, int64_t b,
                                 int64_t query) {
  if (s.branch < 0) return 1.0f;
  const AttentionBranch& branch = p.branches[s.branch];
  float factor = s.weight;
  if (branch.mask != nullptr && query < p.queries) {
    const float mask = branch.mask[b * branch.mask_batch_stride + query];
    factor = mask == 0.0f ? 0.0f : s.weight * mask;
  }
  return s.branch < p.shared_softmax && factor < 0.0f ? NAN : factor;
}

ATTNPATCH_DEVICE bool is_masked(const BranchAttentionArguments& p, const Segment& s) {
  return s.branch >= 0 && p.branches[s.branch].mask != nullptr;
}

// Where a block of keys begins. Blocks come in one order, the same for every tile of queries; a
// segment with a softmax of its own that has several is gone through twice.
template <int kKeys>
struct KeyPlace {
  int segment = 0, start = 0;
  bool again = false;

  ATTNPATCH_DEVICE bool comes_again(const Segments& segments) const {
    return !again && segment >= segments.grouped && segments.list[segment].tokens > kKeys;
  }

  // To the next block; false where that is the first one.
  ATTNPATCH_DEVICE bool advance(const Segments& segments) {
    start += kKeys;
    if (start < segments.list[segment].tokens) return true;
    start = 0;
    again = comes_again(segments);
    if (again) return true;
    ++segment;
    if (segment < segments.count) return true;
    segment = 0;
    return false;
  }
};

// Keys and values in shared memory: of all segments, or, where those do not fit, two blocks, of
// which one is loaded while the other is in use.
template <typename T, int kSize>
struct Shelf {
  static constexpr int kKeys = kBlockKeys<kSize>, kStride = kSize + kPad;
  using Place = KeyPlace<kKeys>;

  const BranchAttentionArguments& p;
  const Segments& segments;
  int64_t head;
  T* keys;
  T* values;
  int half = 0;  // where the next block goes

  ATTNPATCH_DEVICE void load(const Segment& s, int start, int count, int row) const {
    const AttentionView& k = s.branch < 0 ? p.k : p.branches[s.branch].k;
    const AttentionView& v = s.branch < 0 ? p.v : p.branches[s.branch].v;
    const int rows = (count + 15) / 16 * 16, size = static_cast<int>(p.head_size);
    const int offset = row * kStride;
    const Team team{static_cast<int>(threadIdx.x), kThreads};
    load_rows<kSize>(keys + offset, rows_of<T>(k, s.row, head), start, count, rows, size,
                     p.vectorized, team);
    load_rows<kSize>(values + offset, rows_of<T>(v, s.row, head), start, count, rows, size,
                     p.vectorized, team);
  }

  ATTNPATCH_DEVICE int count_at(const Place& place) const {
    return min(kKeys, segments.list[place.segment].tokens - place.start);
  }

  ATTNPATCH_DEVICE void load_block(const Place& place) {
    load(segments.list[place.segment], place.start, count_at(place), half * kKeys);
    commit_copies();
    half ^= 1;
  }

  // All threads of the block come here, before the first fetch.
  ATTNPATCH_DEVICE void begin() {
    if (segments.count == 0) return;
    if (p.resident_rows == 0) return load_block({});
    for (int i = 0; i < segments.count; ++i) {
      load(segments.list[i], 0, segments.list[i].tokens, segments.list[i].first);
    }
    wait_for_copies();
    sync_block();
  }

  // The row of the next block of keys, and `after` is the one after it. All threads of the block
  // come here.
  ATTNPATCH_DEVICE int fetch(const Place& place, const Place& after) {
    if (p.resident_rows > 0) return segments.list[place.segment].first + place.start;
    sync_block();  // all are done with the block whose place is taken
    load_block(after);
    wait_for_earlier_copies();
    sync_block();
    return half * kKeys;
  }
};

}  // namespace attnpatch::kernels::device
