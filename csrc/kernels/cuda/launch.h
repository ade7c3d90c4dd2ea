// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What launchers of CUDA kernels share: errors as exceptions, limits of the device.

#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <source_location>
#include <stdexcept>
#include <string>

namespace attnpatch::device {

inline void check(cudaError_t error, const char* kernel,
                  const std::source_location& where = std::source_location::current()) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or it would be found again by the next to ask
  throw std::runtime_error(std::string(kernel) + ": " + cudaGetErrorString(error) + " (" +
                           where.file_name() + ":" + std::to_string(where.line()) + ")");
}

// What a kernel declares itself, at most.
constexpr size_t kOwnSharedBytes = 1024;

struct DeviceLimits {
  size_t shared_bytes;  // that a block of threads can have, beside a kernel's own
  int multiprocessors;
};

inline DeviceLimits current_limits(const char* kernel) {
  int device = 0, shared = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), kernel);
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), kernel);
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), kernel);
  return {static_cast<size_t>(shared) - kOwnSharedBytes, multiprocessors};
}

// Launches a kernel with dynamic shared memory of any size that the device allows.
template <typename Arguments>
void launch(const char* name, void (*kernel)(Arguments), dim3 grid, int threads, size_t shared,
            cudaStream_t stream, const Arguments& arguments) {
  constexpr size_t kFree = (48 << 10) - kOwnSharedBytes;  // more must be asked for
  const void* function = reinterpret_cast<const void*>(kernel);
  if (shared > kFree) {
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)),
          name);
  }
  void* list[] = {const_cast<Arguments*>(&arguments)};
  check(cudaLaunchKernel(function, grid, dim3(threads), list, shared, stream), name);
}

}  // namespace attnpatch::device
