// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What has to be done once for a kernel on a device, or found out once.

#pragma once

#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace attnpatch::kernels::device {

class OncePerPair {
 public:
  // Calls body unless it was called, and returned, for this pair before. Threads wait for each
  // other: when run returns, it is done.
  template <typename Body>
  void run(const void* function, int device, const Body& body) {
    const std::scoped_lock lock(mutex_);
    const std::pair key(function, device);
    if (done_.contains(key)) return;
    body();
    done_.insert(key);
  }

 private:
  std::mutex mutex_;
  std::set<std::pair<const void*, int>> done_;
};

template <typename Key, typename Value>
class PerKey {
 public:
  // What make() returned for this key at first.
  template <typename Make>
  Value get(const Key& key, const Make& make) {
    const std::scoped_lock lock(mutex_);
    const auto found = known_.find(key);
    return found != known_.end() ? found->second : known_.emplace(key, make()).first->second;
  }

 private:
  std::mutex mutex_;
  std::map<Key, Value> known_;
};

}  // namespace attnpatch::kernels::device
