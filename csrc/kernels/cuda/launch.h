// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// What launchers of CUDA kernels share: errors as exceptions, limits of the device.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <source_location>
#include <stdexcept>
#include <string>
#include <tuple>

#include "kernels/cuda/limits.h"
#include "kernels/cuda/once.h"
#include "kernels/views.h"

namespace attnpatch::kernels::device {

inline void check(cudaError_t error, const char* kernel,
                  const std::source_location& where = std::source_location::current()) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or it would be found again by the next to ask
  // A fault of a kernel is found by whoever launches the next one.
  throw std::runtime_error(std::string(kernel) +
                           ", or an earlier kernel: " + cudaGetErrorString(error) + " (" +
                           where.file_name() + ":" + std::to_string(where.line()) + ")");
}

// What a kernel declares itself, at most.
constexpr size_t kOwnSharedBytes = 1024;

inline int attribute(cudaDeviceAttr which, int device, const char* kernel) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), kernel);
  return value;
}

inline int current_device(const char* kernel) {
  int device = 0;
  check(cudaGetDevice(&device), kernel);
  return device;
}

inline DeviceLimits current_limits(const char* kernel) {
  const int device = current_device(kernel);
  const int block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device, kernel);
  const int all = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device, kernel);
  const int reserved = attribute(cudaDevAttrReservedSharedMemoryPerBlock, device, kernel);
  const size_t own = kOwnSharedBytes + static_cast<size_t>(reserved);
  return {static_cast<size_t>(block) - kOwnSharedBytes, static_cast<size_t>(all) - 2 * own,
          attribute(cudaDevAttrMultiProcessorCount, device, kernel)};
}

// Lets a kernel have all the shared memory that the device allows. Each launch asking for what it
// needs would take it from another thread's that needs more.
inline void allow_shared_memory(const void* function, const char* kernel) {
  static OncePerPair done;
  const int device = current_device(kernel);
  done.run(function, device, [&] {
    cudaFuncAttributes own{};
    check(cudaFuncGetAttributes(&own, function), kernel);
    const int most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device, kernel);
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               most - static_cast<int>(own.sharedSizeBytes)),
          kernel);
  });
}

// How many blocks of threads a multiprocessor takes at a time.
inline int blocks_at_once(const void* function, int threads, size_t shared, const char* kernel) {
  static PerKey<std::tuple<const void*, int, size_t>, int> known;
  return known.get({function, current_device(kernel), shared}, [&] {
    allow_shared_memory(function, kernel);
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, threads, shared),
          kernel);
    return blocks;
  });
}

// Calls body with the type of a dtype's values as its template argument.
template <class Body>
auto with_dtype(Dtype dtype, const Body& body) {
  switch (dtype) {
    case Dtype::kFloat16:
      return body.template operator()<__half>();
    case Dtype::kBFloat16:
      return body.template operator()<__nv_bfloat16>();
    case Dtype::kFloat32:
      break;
  }
  return body.template operator()<float>();
}

// The same for kernels of 16-bit types.
template <class Body>
auto with_half_dtype(Dtype dtype, const Body& body) {
  return dtype == Dtype::kFloat16 ? body.template operator()<__half>()
                                  : body.template operator()<__nv_bfloat16>();
}

// Launches a kernel with dynamic shared memory of any size that the device allows.
template <typename Arguments>
void launch(const char* name, void (*kernel)(Arguments), dim3 grid, int threads, size_t shared,
            cudaStream_t stream, const Arguments& arguments) {
  constexpr size_t kFree = (48 << 10) - kOwnSharedBytes;  // more must be asked for
  const void* function = reinterpret_cast<const void*>(kernel);
  if (shared > kFree) allow_shared_memory(function, name);
  void* list[] = {const_cast<Arguments*>(&arguments)};
  check(cudaLaunchKernel(function, grid, dim3(threads), list, shared, stream), name);
}

}  // namespace attnpatch::kernels::device
