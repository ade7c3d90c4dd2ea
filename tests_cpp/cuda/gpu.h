// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// Tests on a real GPU: its memory, and a visible skip where there is none.

#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <utility>

#include "kernels/cuda/launch.h"

namespace attnpatch::kernels {

class GpuMemory {
 public:
  explicit GpuMemory(size_t bytes) { device::check(cudaMalloc(&data_, bytes + 1), "test"); }
  GpuMemory(GpuMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  GpuMemory(const GpuMemory&) = delete;
  GpuMemory& operator=(const GpuMemory&) = delete;
  GpuMemory& operator=(GpuMemory&&) = delete;
  ~GpuMemory() { cudaFree(data_); }

  void* data() { return data_; }
  void write(const void* from, size_t bytes) {
    device::check(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice), "test");
  }
  void read(void* to, size_t bytes) const {
    device::check(cudaMemcpy(to, data_, bytes, cudaMemcpyDeviceToHost), "test");
  }

 private:
  void* data_ = nullptr;
};

inline void wait_for_gpu(const char* kernel) { device::check(cudaDeviceSynchronize(), kernel); }

template <typename Parameter>
class OnGpu : public testing::TestWithParam<Parameter> {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "no CUDA device";
    }
  }
};

}  // namespace attnpatch::kernels
