// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Tasks that are runs of queries with one head's keys, on all threads, by vectors or, in bf16 where
// the processor has AMX, by tiles. Included once per instruction set.

#if defined(ATTNPATCH_ONLINE_TASKS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNPATCH_ONLINE_TASKS_INL_H_
#undef ATTNPATCH_ONLINE_TASKS_INL_H_
#else
#define ATTNPATCH_ONLINE_TASKS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cpu/amx_attention-inl.h"
#include "kernels/cpu/arena.h"
#include "kernels/cpu/online_amx-inl.h"
#include "kernels/cpu/online_softmax-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/task_lots.h"

HWY_BEFORE_NAMESPACE();
namespace attnpatch::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <typename Format>
class VectorOnline {
 public:
  VectorOnline(Arena::Scope& memory, int64_t queries, int64_t keys, const HeadSizes& sizes)
      : state_(memory, queries, keys, sizes) {}

  template <typename Keys, typename Queries>
  void attend(const Keys& keys, const Queries& queries, bool packed) {
    kernels::HWY_NAMESPACE::attend<Format>(keys, queries, packed, state_);
  }

 private:
  State state_;
};

template <typename Format>
struct OnlineOf {
  using Type = VectorOnline<Format>;
};

#if ATTNPATCH_AMX_TARGET
template <>
struct OnlineOf<BFloat16Tiles> {
  using Type = AmxOnline;
};
#endif

// What tasks want at most.
struct OnlineDemand {
  int64_t queries, keys;  // of a task
  int64_t multiply_adds;  // of all
  HeadSizes sizes;
};

// Where the lots of tasks begin and end that have a head's keys in common.
template <typename Task>
std::vector<int64_t> lots_of_one_head(const std::vector<Task>& tasks) {
  std::vector<int64_t> starts = {0};
  for (size_t i = 1; i < tasks.size(); ++i) {
    if (!tasks[i].has_keys_of(tasks[i - 1])) starts.push_back(static_cast<int64_t>(i));
  }
  starts.push_back(static_cast<int64_t>(tasks.size()));
  return starts;
}

// Those with one head's keys, has_keys_of(task before), come one after the other; keys_of(task) and
// queries_of(task) are what `attend` takes.
template <typename Format, typename Task, typename KeysOf, typename QueriesOf>
void run_online(const Threads& threads, const std::vector<Task>& tasks, const OnlineDemand& demand,
                const KeysOf& keys_of, const QueriesOf& queries_of) {
  TaskLots lots(lots_of_one_head(tasks), useful_threads(threads, demand.multiply_adds));
  run_workers(threads, lots, [&](TaskLots::Worker& worker) {
    Arena::Scope memory(thread_arena());
    typename OnlineOf<Format>::Type online(memory, demand.queries, demand.keys, demand.sizes);
    int64_t before = -1;
    for (int64_t i; (i = worker.take()) >= 0; before = i) {
      const bool packed = before >= 0 && tasks[i].has_keys_of(tasks[before]);
      online.attend(keys_of(tasks[i]), queries_of(tasks[i]), packed);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnpatch::kernels
HWY_AFTER_NAMESPACE();

#endif  // ATTNPATCH_ONLINE_TASKS_INL_H_
