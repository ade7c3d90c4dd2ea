// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "kernels/cpu/task_lots.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <ostream>
#include <thread>
#include <vector>

#include "kernels/parallel.h"

namespace attnpatch::kernels {
namespace {

struct Shape {
  const char* why;
  std::vector<int64_t> starts;
  int64_t workers;
};

void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.why; }

class TaskLotsOf : public testing::TestWithParam<Shape> {
 protected:
  int64_t tasks() const { return GetParam().starts.back(); }
};

std::vector<int64_t> taken_by(TaskLots& lots, int64_t number) {
  TaskLots::Worker worker(lots, number);
  std::vector<int64_t> tasks;
  for (int64_t task; (task = worker.take()) >= 0;) tasks.push_back(task);
  return tasks;
}

TEST_P(TaskLotsOf, OneWorkerDoesAllWhereTheOthersNeverBegin) {
  const int64_t workers = TaskLots(GetParam().starts, GetParam().workers).workers();
  for (int64_t number = 0; number < workers; ++number) {
    TaskLots lots(GetParam().starts, GetParam().workers);
    std::vector<int> times(static_cast<size_t>(tasks()));
    for (const int64_t task : taken_by(lots, number)) ++times[task];
    EXPECT_EQ(times, std::vector<int>(static_cast<size_t>(tasks()), 1)) << "worker " << number;
    // Who comes late finds nothing.
    for (int64_t late = 0; late < workers; ++late) EXPECT_TRUE(taken_by(lots, late).empty());
  }
}

TEST_P(TaskLotsOf, ThreadsTakeEachTaskOnce) {
  for (int repeat = 0; repeat < 20; ++repeat) {
    TaskLots lots(GetParam().starts, GetParam().workers);
    std::vector<std::atomic<int>> times(static_cast<size_t>(tasks()));
    std::vector<std::thread> threads;
    for (int64_t number = 0; number < lots.workers(); ++number) {
      threads.emplace_back([&, number] {
        TaskLots::Worker worker(lots, number);
        for (int64_t task; (task = worker.take()) >= 0;) ++times[task];
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::atomic<int>& count : times) EXPECT_EQ(count, 1);
  }
}

TEST_P(TaskLotsOf, TakesALotsTasksOneAfterTheOther) {
  TaskLots lots(GetParam().starts, GetParam().workers);
  const auto lot_of = [&](int64_t task) {
    size_t lot = 0;
    while (GetParam().starts[lot + 1] <= task) ++lot;
    return lot;
  };
  std::vector<bool> left(GetParam().starts.size());
  int64_t before = -1;
  for (const int64_t task : taken_by(lots, 0)) {
    if (before >= 0 && lot_of(task) != lot_of(before)) left[lot_of(before)] = true;
    EXPECT_FALSE(left[lot_of(task)]) << "came back for task " << task;
    before = task;
  }
}

TEST_P(TaskLotsOf, WorkersBeginInLotsOfTheirOwn) {
  TaskLots lots(GetParam().starts, GetParam().workers);
  const auto count = static_cast<int64_t>(GetParam().starts.size()) - 1;
  if (count < lots.workers() || tasks() == 0) return;
  int64_t before = -1;
  for (int64_t number = 0; number < lots.workers(); ++number) {
    const int64_t task = TaskLots::Worker(lots, number).take();
    EXPECT_GT(task, before) << "worker " << number;
    before = task;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, TaskLotsOf,
                         testing::Values(Shape{"one task", {0, 1}, 4}, Shape{"none", {0, 0}, 3},
                                         Shape{"one lot for all", {0, 17}, 3},
                                         Shape{"a lot each", {0, 5, 10, 15}, 3},
                                         Shape{"lots of other lengths", {0, 1, 8, 11, 11, 13}, 2},
                                         Shape{"fewer lots than threads", {0, 40, 80}, 7}));

TEST(RunWorkers, AsksForOneRegionAndForNoneWhereOneThreadIsEnough) {
  int regions = 0;
  Threads threads;
  threads.threads = 4;
  threads.parallel_for = [&](int64_t count, const std::function<void(int64_t, int64_t)>& body) {
    ++regions;
    EXPECT_EQ(count, 4);
    body(0, count);
  };
  int64_t done = 0;
  const auto work = [&](TaskLots::Worker& worker) {
    while (worker.take() >= 0) ++done;
  };
  TaskLots lots(8, 2, 4);
  run_workers(threads, lots, work);
  EXPECT_EQ(regions, 1);
  EXPECT_EQ(done, 16);
  TaskLots small(8, 2, useful_threads(threads, 1000));
  run_workers(threads, small, work);
  EXPECT_EQ(regions, 1);
  EXPECT_EQ(done, 32);
}

TEST(UsefulThreads, FollowTheWork) {
  Threads threads;
  threads.threads = 4;
  EXPECT_EQ(useful_threads(threads, 0), 1);
  EXPECT_EQ(useful_threads(threads, int64_t{3} << 20), 3);
  EXPECT_EQ(useful_threads(threads, int64_t{1} << 40), 4);
}

}  // namespace
}  // namespace attnpatch::kernels
