// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "ops/branch_set.h"

#include <torch/csrc/stable/ops.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ops/arguments.h"

namespace attnpatch::ops {
namespace {

using torch::stable::Tensor;

struct Registry {
  std::shared_mutex mutex;
  std::unordered_map<int64_t, std::shared_ptr<const Branches>> sets;
  int64_t next = 1;
};

Registry& registry() {
  static Registry* const kOnly = new Registry;  // it outlives the objects of an ending interpreter
  return *kOnly;
}

Tensor contiguous_of(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

void check(const Branches& b) {
  const auto count = static_cast<int64_t>(b.k.size());
  if (count == 0 || b.v.size() != b.k.size() || b.rows.size() != b.k.size()) {
    fail("k, v, rows: expected the same count of branches, one at least, got ", b.k.size(), ", ",
         b.v.size(), " and ", b.rows.size());
  }
  const First first{"k[0]", &b.k[0]};
  check_first(first, {{-1, "rows"}, {-1, "tokens"}, {-1, "channels"}});
  const ScalarType dtype = b.k[0].scalar_type();
  const int64_t channels = b.k[0].size(2), batch = b.rows[0].numel();
  for (size_t i = 0; i < b.k.size(); ++i) {
    const std::string number = "[" + std::to_string(i) + "]";
    check_tensor("k" + number, b.k[i], first, dtype, {{-1, "rows"}, {-1, "tokens"}, {channels}});
    check_tensor("v" + number, b.v[i], first, dtype,
                 {{b.k[i].size(0)}, {b.k[i].size(1)}, {channels}});
    check_tensor("rows" + number, b.rows[i], first, ScalarType::Long, {{batch}});
  }
  check_tensor("weights", b.weights, first, ScalarType::Float, {{count}, {batch}});
  if (b.masks) {
    const bool one = b.masks->dim() == 3 && b.masks->size(1) == 1;
    check_tensor("masks", *b.masks, first, ScalarType::Float,
                 {{count}, {one ? 1 : batch, "1 or batch"}, {-1, "queries"}});
  }
  if (b.shared_softmax < 0 || b.shared_softmax > count) {
    fail("shared_softmax: expected 0 to ", count, ", got ", b.shared_softmax);
  }
}

void check_rows(const Branches& b) {
  for (size_t i = 0; i < b.rows.size(); ++i) {
    const auto* rows = static_cast<const int64_t*>(b.rows[i].const_data_ptr());
    for (int64_t n = 0; n < b.rows[i].numel(); ++n) {
      if (rows[n] < b.k[i].size(0)) continue;
      fail("rows[", i, "]: expected rows below ", b.k[i].size(0), ", those of k[", i, "], got ",
           rows[n]);
    }
  }
}

}  // namespace

BranchSet::BranchSet(std::vector<Tensor> k, std::vector<Tensor> v, std::vector<Tensor> rows,
                     Tensor weights, std::optional<Tensor> masks, int64_t shared_softmax) {
  auto branches =
      std::make_shared<Branches>(Branches{std::move(k), std::move(v), std::move(rows),
                                          std::move(weights), std::move(masks), shared_softmax});
  check(*branches);
  for (Tensor& t : branches->rows) t = contiguous_of(t);
  branches->weights = contiguous_of(branches->weights);
  if (branches->masks) branches->masks = contiguous_of(*branches->masks);
  if (branches->k[0].is_cpu()) check_rows(*branches);
  Registry& all = registry();
  const std::unique_lock lock(all.mutex);
  handle_ = all.next++;
  all.sets.emplace(handle_, std::move(branches));
}

BranchSet::~BranchSet() {
  std::shared_ptr<const Branches> last;  // let go of outside the lock
  Registry& all = registry();
  const std::unique_lock lock(all.mutex);
  const auto found = all.sets.find(handle_);
  last = std::move(found->second);
  all.sets.erase(found);
}

std::shared_ptr<const Branches> branches_of(int64_t handle) {
  Registry& all = registry();
  const std::shared_lock lock(all.mutex);
  const auto found = all.sets.find(handle);
  if (found == all.sets.end()) {
    fail("branches: expected the number of a BranchSet that lives, got ", handle);
  }
  return found->second;
}

}  // namespace attnpatch::ops
