# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

# The library attnpatch_cuda, where it is asked for. Compiling for every architecture takes minutes: AUTO does so for this
# machine's GPU alone.
if(ATTNPATCH_CUDA STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  execute_process(COMMAND nvidia-smi --list-gpus RESULT_VARIABLE no_gpu OUTPUT_QUIET ERROR_QUIET)
  if(CMAKE_CUDA_COMPILER AND no_gpu EQUAL 0)
    set(ATTNPATCH_CUDA ON)
    set(CMAKE_CUDA_ARCHITECTURES native)
  else()
    set(ATTNPATCH_CUDA OFF)
  endif()
endif()
if(NOT ATTNPATCH_CUDA)
  return()
endif()

if(NOT CMAKE_CUDA_ARCHITECTURES)
  # Nothing asks for more than 8.0 has: compiled once to that, then assembled for each.
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  set(cuda_processors 80 86 89 90)
endif()
enable_language(CUDA)
# CMake 3.25 does not know it yet.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
include(cmake/cuda_toolkit.cmake)
if(NOT CUDAToolkit_FOUND)
  message(
    FATAL_ERROR "ATTNPATCH_CUDA: ${CMAKE_CUDA_COMPILER} is there, CUDA's headers and static runtime are not; "
                "CUDAToolkit_ROOT names their folder")
endif()

file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/kernels/cuda/*.cu)
add_library(attnpatch_cuda STATIC ${cuda_sources})
target_include_directories(attnpatch_cuda PUBLIC csrc)
target_link_libraries(attnpatch_cuda PUBLIC CUDA::cudart_static)
# What the assembler says of registers and spills is kept beside each object: a test compares it with a table.
target_compile_options(attnpatch_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-v>")
if(UNIX)
  set_property(TARGET attnpatch_cuda
               PROPERTY RULE_LAUNCH_COMPILE "${CMAKE_CURRENT_SOURCE_DIR}/tools/keep_ptxas.sh <OBJECT>.ptxas")
endif()
# All CUDA code that can be built here.
add_custom_target(cuda DEPENDS attnpatch_cuda)
if(cuda_processors)
  if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12.8)
    list(APPEND cuda_processors 100 120)
  endif()
  foreach(processor ${cuda_processors})
    target_compile_options(
      attnpatch_cuda
      PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-gencode arch=compute_80,code=sm_${processor}>")
  endforeach()
  # For those to come.
  target_compile_options(attnpatch_cuda
                         PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-gencode arch=compute_80,code=compute_80>")
endif()
