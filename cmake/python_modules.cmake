# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

# The extension modules. Torch is used through its stable ABI only: its headers and libtorch_cpu, with the
# oldest supported release as target, so that one build serves every torch from 2.10 on.
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 CONFIG REQUIRED)

# Any torch serves to build against, also one of another Python.
set(ATTNPATCH_TORCH "" CACHE PATH "Folder of the torch to build against; that of the Python if empty")
set(torch_folder "${ATTNPATCH_TORCH}")
if(NOT torch_folder)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
            "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE torch_folder OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
endif()

find_library(torch_cpu_library torch_cpu PATHS "${torch_folder}/lib" NO_DEFAULT_PATH REQUIRED)
add_library(torch_stable SHARED IMPORTED)
set_target_properties(torch_stable PROPERTIES IMPORTED_LOCATION "${torch_cpu_library}" IMPORTED_IMPLIB
                                                                                       "${torch_cpu_library}")
target_include_directories(torch_stable SYSTEM INTERFACE "${torch_folder}/include")
target_compile_definitions(torch_stable INTERFACE TORCH_TARGET_VERSION=0x020a000000000000)
if(CMAKE_SYSTEM_NAME STREQUAL Linux AND CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # libtorch_cpu shows some of the C++ library's names as well: that comes first, or they would be taken for torch's.
  set(cxx_library stdc++)
endif()

# An extension module. Other copies of the libraries in it may be in the process (cv2's, onnxruntime's), so nothing but
# its init function is seen from outside. torch is loaded by Python before it: no path to it is written into it.
function(attnpatch_module name)
  pybind11_add_module(${name} MODULE ${ARGN})
  target_include_directories(${name} PRIVATE csrc)
  set_target_properties(${name} PROPERTIES SKIP_BUILD_RPATH ON)
  if(UNIX AND NOT APPLE)
    set(names "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/python_module.map")
    target_link_options(${name} PRIVATE "LINKER:--version-script=${names}" LINKER:--exclude-libs,ALL
                        LINKER:--gc-sections)
    set_target_properties(${name} PROPERTIES LINK_DEPENDS "${names}")
  endif()
  install(TARGETS ${name} DESTINATION attnpatch)
endfunction()

file(GLOB core_sources CONFIGURE_DEPENDS csrc/ops/*.cpp csrc/nets/*.cpp)
attnpatch_module(_core ${core_sources} csrc/bindings/core.cpp csrc/bindings/nets.cpp csrc/bindings/ops.cpp
                 csrc/bindings/rules.cpp)
target_link_libraries(_core PRIVATE attnpatch_kernels attnpatch_rules ${cxx_library} torch_stable)

# The same operators for CUDA: their files with the other kernels, linked to torch's CUDA library as well.
if(ATTNPATCH_CUDA)
  find_library(torch_cuda_library torch_cuda PATHS "${torch_folder}/lib" NO_DEFAULT_PATH)
  if(torch_cuda_library)
    file(GLOB operators CONFIGURE_DEPENDS csrc/ops/*.cpp)
    list(FILTER operators EXCLUDE REGEX "tensor_handles|torch_calls|attend|branch_set")
    file(GLOB cuda_operators CONFIGURE_DEPENDS csrc/ops/cuda/*.cpp)
    attnpatch_module(_cuda ${operators} ${cuda_operators} csrc/bindings/cuda.cpp)
    target_compile_definitions(_cuda PRIVATE ATTNPATCH_OPS_ON_CUDA)
    target_link_libraries(_cuda PRIVATE attnpatch_cuda ${cxx_library} torch_stable "${torch_cuda_library}")
    add_dependencies(cuda _cuda)
  else()
    message(STATUS "torch was built without CUDA: _cuda is not built")
  endif()
endif()

if(ATTNPATCH_VISION)
  attnpatch_module(_vision csrc/bindings/vision.cpp)
  target_link_libraries(_vision PRIVATE attnpatch_vision)
  if(ATTNPATCH_FACES)
    target_sources(_vision PRIVATE csrc/bindings/faces.cpp)
    target_compile_definitions(_vision PRIVATE ATTNPATCH_FACES)
    target_link_libraries(_vision PRIVATE attnpatch_vision_faces)
  endif()
endif()

if(ATTNPATCH_BUNDLED AND SKBUILD_METADATA_DIR)
  install(DIRECTORY "${ATTNPATCH_BUNDLED}/sboms" "${ATTNPATCH_BUNDLED}/licenses"
          DESTINATION "${SKBUILD_METADATA_DIR}")
endif()
