// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Strategy: a task is a block of queries with some heads, as many as have packed keys and values in
// half of L2: the heads' rows of one query lie side by side in memory, so going through heads
// inside a block keeps its pages at hand. Queries attend by vectors (branch_vectors-inl.h) or, in
// bf16 where the processor has AMX, by tiles (branch_amx-inl.h).

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/branch_attention.cpp"
#include <hwy/foreach_target.h>
// The order matters: the line above includes this file once per instruction set.
#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "kernels/branch_attention.h"
#include "kernels/cpu/amx_attention-inl.h"
#include "kernels/cpu/arena.h"
#include "kernels/cpu/branch_amx-inl.h"
#include "kernels/cpu/branch_vectors-inl.h"
#include "kernels/cpu/packed_keys-inl.h"
#include "kernels/cpu/query_tile-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/scores-inl.h"
#include "kernels/cpu/task_lots.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline Segments collect_segments(const BranchAttentionParams& p, int64_t b, int64_t panel) {
  Segments segments(panel);
  if (p.keys > 0) segments.add({&p.k, &p.v, b, p.keys, 1.0f, nullptr});
  const auto count = static_cast<int64_t>(p.branches.size());
  for (int64_t i = 0; i <= count; ++i) {
    if (i == p.shared_softmax) segments.grouped = static_cast<int64_t>(segments.list.size());
    if (i == count) break;
    const AttentionBranch& branch = p.branches[i];
    if (branch.rows[b] < 0 || branch.weights[b] == 0.0f || branch.tokens == 0) continue;
    segments.add({&branch.k, &branch.v, branch.rows[b], branch.tokens, branch.weights[b],
                  branch.mask ? branch.mask + b * branch.mask_batch_stride : nullptr});
  }
  return segments;
}

// How the work is cut: a lot is one row of the batch with a group of heads of keys, a task a block
// of its queries. Groups have packed keys in half of L2, and are enough of them for all threads.
struct Cut {
  static constexpr int64_t kBlock = 4 * kTileVectors * kLanes;  // queries: whole tiles of AMX, too
  static constexpr int64_t kPackedFloats = 128 << 10;

  std::vector<Segments> rows;  // of the batch
  int64_t most_keys = 0, workers, group, groups, blocks;

  // `head_floats(keys, size)` are those of a packed head, each segment's keys filled up to `panel`.
  Cut(const BranchAttentionParams& p, int64_t panel, int64_t (*head_floats)(int64_t, int64_t)) {
    int64_t keys = 0;
    for (int64_t b = 0; b < p.batch; ++b) {
      rows.push_back(collect_segments(p, b, panel));
      keys += rows.back().keys;
      most_keys = HWY_MAX(most_keys, rows.back().keys);
    }
    workers = useful_threads(p, 2 * p.heads * p.queries * p.head_size * keys);
    const int64_t fitting =
        kPackedFloats / HWY_MAX(head_floats(most_keys, p.head_size), int64_t{1});
    const int64_t sharing = p.batch * p.kv_heads / workers;
    group = std::clamp(HWY_MIN(fitting, sharing), int64_t{1}, p.kv_heads);
    groups = (p.kv_heads + group - 1) / group;
    blocks = (p.queries + kBlock - 1) / kBlock;
  }
};

// One thread's work: packs a lot's keys and values when it first takes a task of it.
template <typename Branches>
class LotWork {
 public:
  LotWork(const BranchAttentionParams& p, const Cut& cut, Arena::Scope& memory)
      : p_(p),
        cut_(cut),
        head_floats_(Branches::head_floats(cut.most_keys, p.head_size)),
        packed_(memory.take(cut.group * head_floats_)),
        branches_(memory, cut.most_keys, p.head_size) {}

  void run(int64_t task) {
    const int64_t lot = task / cut_.blocks, b = lot / cut_.groups;
    const int64_t first = lot % cut_.groups * cut_.group;
    const int64_t last = HWY_MIN(first + cut_.group, p_.kv_heads);
    const Segments& segments = cut_.rows[b];
    if (lot != lot_) {
      for (int64_t h = first; h < last; ++h) branches_.pack(segments, h, head(h));
      lot_ = lot;
    }
    const int64_t begin = task % cut_.blocks * Cut::kBlock;
    const int64_t end = HWY_MIN(begin + Cut::kBlock, p_.queries);
    const int64_t begin_h = first * p_.group(), end_h = last * p_.group();
    for (int64_t h = begin_h; h < end_h; ++h) {
      HeadQueries queries{
          &p_.q, &p_.out, b, h, begin, end, p_.head_size, p_.scale * kLog2E, segments.keys / 4};
      queries.after = {h + 1, begin, end};
      if (h + 1 == end_h) queries.after = {begin_h, end, HWY_MIN(end + Cut::kBlock, p_.queries)};
      branches_.attend(queries, p_.queries, segments, head(p_.kv_head(h)));
    }
  }

 private:
  float* head(int64_t kv_head) const { return packed_ + kv_head % cut_.group * head_floats_; }

  const BranchAttentionParams& p_;
  const Cut& cut_;
  int64_t head_floats_;
  float* packed_;
  Branches branches_;
  int64_t lot_ = -1;
};

template <typename Format>
struct BranchesOf {
  using Type = VectorBranches<Format>;
};

#if ATTNPATCH_AMX_TARGET
template <>
struct BranchesOf<BFloat16Tiles> {
  using Type = AmxBranches;
};
#endif

template <typename Format>
void run(const BranchAttentionParams& p) {
  using Branches = typename BranchesOf<Format>::Type;
  const Cut cut(p, Branches::kPanel, Branches::head_floats);
  TaskLots lots(p.batch * cut.groups, cut.blocks, cut.workers);
  run_workers(p, lots, [&](TaskLots::Worker& worker) {
    Arena::Scope memory(thread_arena());
    LotWork<Branches> work(p, cut, memory);
    for (int64_t task; (task = worker.take()) >= 0;) work.run(task);
  });
}

void branch_attention(const BranchAttentionParams& params) {
  with_products(params.dtype, [&]<class Format>() { run<Format>(params); });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnpatch::kernels {

HWY_EXPORT(branch_attention);

void branch_attention_cpu(const BranchAttentionParams& params) {
  if (params.batch * params.heads * params.queries * params.head_size == 0) return;
  HWY_DYNAMIC_DISPATCH(branch_attention)(params);
}

}  // namespace attnpatch::kernels
#endif  // HWY_ONCE
