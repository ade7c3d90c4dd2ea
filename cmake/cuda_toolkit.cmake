# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

# CUDA's headers and static runtime, where they are: CUDAToolkit_FOUND. CMake wants the shared runtime too, and by a name
# that NVIDIA's packages of PyPI do not have; the static one stands for it there.
find_package(CUDAToolkit QUIET)
if(NOT CUDAToolkit_FOUND)
  find_library(CUDA_CUDART cudart_static PATH_SUFFIXES lib64)
  find_package(CUDAToolkit QUIET)
endif()
