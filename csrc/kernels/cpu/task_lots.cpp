// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cpu/task_lots.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "kernels/parallel.h"

namespace attnpatch::kernels {
namespace {

// Some twenty microseconds of a core, several times what it takes to wake a thread.
constexpr int64_t kWorthAThread = int64_t{1} << 20;

std::vector<int64_t> equal_lots(int64_t lots, int64_t tasks) {
  std::vector<int64_t> starts;
  for (int64_t i = 0; i <= lots; ++i) starts.push_back(i * tasks);
  return starts;
}

}  // namespace

TaskLots::TaskLots(std::vector<int64_t> starts, int64_t workers)
    : starts_(std::move(starts)), next_(starts_.size() - 1) {
  for (size_t i = 0; i < next_.size(); ++i) next_[i].store(starts_[i], std::memory_order_relaxed);
  const int64_t tasks = starts_.back() - starts_.front();
  workers_ = std::clamp(workers, int64_t{1}, std::max(tasks, int64_t{1}));
}

TaskLots::TaskLots(int64_t lots, int64_t tasks, int64_t workers)
    : TaskLots(equal_lots(lots, tasks), workers) {}

TaskLots::Worker::Worker(TaskLots& lots, int64_t number)
    : lots_(&lots),
      first_(number * lots.lots() / lots.workers()),
      own_((number + 1) * lots.lots() / lots.workers() - first_) {}

int64_t TaskLots::Worker::lot() const {
  if (visited_ < own_) return first_ + visited_;
  const int64_t back = first_ - 1 - (visited_ - own_);
  return back < 0 ? back + lots_->lots() : back;
}

int64_t TaskLots::Worker::take() {
  for (; visited_ < lots_->lots(); ++visited_) {
    const int64_t i = lot(), end = lots_->starts_[i + 1];
    std::atomic<int64_t>& next = lots_->next_[i];
    if (next.load(std::memory_order_relaxed) >= end) continue;
    const int64_t task = next.fetch_add(1, std::memory_order_relaxed);
    if (task < end) return task;
  }
  return -1;
}

int64_t useful_threads(const Threads& threads, int64_t multiply_adds) {
  return std::clamp(multiply_adds / kWorthAThread, int64_t{1},
                    std::max(threads.threads, int64_t{1}));
}

void run_workers(const Threads& threads, TaskLots& lots,
                 const std::function<void(TaskLots::Worker&)>& work) {
  const auto run = [&](int64_t number, int64_t end) {
    for (; number < end; ++number) {
      TaskLots::Worker worker(lots, number);
      work(worker);
    }
  };
  if (lots.workers() == 1) return run(0, 1);
  threads.parallel_for(lots.workers(), run);
}

}  // namespace attnpatch::kernels
