# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

# The target hwy::hwy: Highway as it is installed; else its sources, which an sdist carries.
find_package(hwy QUIET)
if(TARGET hwy::hwy)
  return()
endif()
set(ATTNPATCH_HIGHWAY "${CMAKE_CURRENT_SOURCE_DIR}/third_party/highway"
    CACHE PATH "Highway's sources, where it is not installed")
if(NOT EXISTS "${ATTNPATCH_HIGHWAY}/hwy/highway.h")
  message(
    FATAL_ERROR
      "Highway not found: install it (on Debian libhwy-dev), or build from an sdist, which carries it")
endif()
file(GLOB highway_sources "${ATTNPATCH_HIGHWAY}/hwy/*.cc")
list(FILTER highway_sources EXCLUDE REGEX "_test[.]cc$")
add_library(attnpatch_highway STATIC ${highway_sources})
target_include_directories(attnpatch_highway SYSTEM PUBLIC "${ATTNPATCH_HIGHWAY}")
target_compile_definitions(attnpatch_highway PUBLIC HWY_STATIC_DEFINE)
add_library(hwy::hwy ALIAS attnpatch_highway)
