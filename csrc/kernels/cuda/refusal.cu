// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <cuda_runtime_api.h>

#include "kernels/cuda/refusal.h"

namespace attnpatch::kernels {
namespace {

// Built as all others are: a device that has code for it has code for them.
__global__ void stands_for_all() {}

std::string version_of(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

}  // namespace

std::string cuda_refusal(int device) {
  int driver = 0, runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "no CUDA driver";
  // Newer drivers run older code; the other way round only within a release.
  if (cudaRuntimeGetVersion(&runtime) == cudaSuccess && driver / 1000 < runtime / 1000) {
    return "built with CUDA " + version_of(runtime) + ", the driver takes CUDA " +
           version_of(driver);
  }
  int before = 0;
  if (cudaGetDevice(&before) != cudaSuccess) before = -1;
  cudaFuncAttributes attributes{};
  cudaError_t error = cudaSetDevice(device);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, &stands_for_all);
  if (before >= 0) cudaSetDevice(before);
  cudaGetLastError();  // or it would be found again by the next to ask
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace attnpatch::kernels
