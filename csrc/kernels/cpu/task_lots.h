// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Tasks that threads take as they come, in one parallel region: a thread that the system lets wait
// finds its tasks done by others. Tasks lie in lots, those of one lot with work in common, such as
// the packing of their keys. A worker takes its own share of the lots from the front, then helps
// the others from the back, so that two meet in a lot at the end alone.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/parallel.h"

namespace attnpatch::kernels {

class TaskLots {
 public:
  // The tasks of lot i are numbers [starts[i], starts[i + 1]).
  TaskLots(std::vector<int64_t> starts, int64_t workers);
  // As many lots, of equally many tasks.
  TaskLots(int64_t lots, int64_t tasks, int64_t workers);

  int64_t workers() const { return workers_; }

  // One thread's way through the lots. Any number of them, of one number too, share the tasks.
  class Worker {
   public:
    // `number` is below workers().
    Worker(TaskLots& lots, int64_t number);

    // The next task, or -1: none is left that nobody has begun.
    int64_t take();

   private:
    int64_t lot() const;

    TaskLots* lots_;
    int64_t first_, own_, visited_ = 0;
  };

 private:
  int64_t lots() const { return static_cast<int64_t>(starts_.size()) - 1; }

  std::vector<int64_t> starts_;
  std::vector<std::atomic<int64_t>> next_;  // of each lot: the first task that nobody has begun
  int64_t workers_;
};

// How many threads are worth their waking for so many multiply-adds, of those that there are.
int64_t useful_threads(const Threads& threads, int64_t multiply_adds);

// Runs work(worker) on every worker's thread, in one parallel region, or none for one worker.
void run_workers(const Threads& threads, TaskLots& lots,
                 const std::function<void(TaskLots::Worker&)>& work);

}  // namespace attnpatch::kernels
