# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

# The extension modules. Torch is used through its stable ABI only: its headers and libtorch_cpu, with the
# oldest supported release as target, so that one build serves every torch from 2.10 on.
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 CONFIG REQUIRED)

# Any torch serves to build against, also one of another Python.
set(ATTNPATCH_TORCH
    ""
    CACHE PATH "Folder of the torch to build against; that of the Python if empty")
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

file(GLOB core_sources CONFIGURE_DEPENDS csrc/ops/*.cpp csrc/nets/*.cpp)
pybind11_add_module(_core MODULE ${core_sources} csrc/bindings/core.cpp csrc/bindings/nets.cpp
                    csrc/bindings/patches.cpp)
target_include_directories(_core PRIVATE csrc)
target_link_libraries(_core PRIVATE attnpatch_kernels attnpatch_patches torch_stable)
# torch is loaded by Python before the module: no path to it is written into the module.
set_target_properties(_core PROPERTIES SKIP_BUILD_RPATH ON)
install(TARGETS _core DESTINATION attnpatch)

# The same operators for CUDA: their files with the other kernels, linked to torch's CUDA library as well.
if(ATTNPATCH_CUDA)
  find_library(torch_cuda_library torch_cuda PATHS "${torch_folder}/lib" NO_DEFAULT_PATH)
  if(torch_cuda_library)
    file(GLOB operators CONFIGURE_DEPENDS csrc/ops/*.cpp)
    list(FILTER operators EXCLUDE REGEX "tensor_handles|torch_calls")
    file(GLOB cuda_operators CONFIGURE_DEPENDS csrc/ops/cuda/*.cpp)
    pybind11_add_module(_cuda MODULE ${operators} ${cuda_operators} csrc/bindings/cuda.cpp)
    target_include_directories(_cuda PRIVATE csrc)
    target_compile_definitions(_cuda PRIVATE ATTNPATCH_OPS_ON_CUDA)
    target_link_libraries(_cuda PRIVATE attnpatch_cuda torch_stable "${torch_cuda_library}")
    set_target_properties(_cuda PROPERTIES SKIP_BUILD_RPATH ON)
    install(TARGETS _cuda DESTINATION attnpatch)
    add_dependencies(cuda _cuda)
  else()
    message(STATUS "torch was built without CUDA: _cuda is not built")
  endif()
endif()

if(ATTNPATCH_VISION)
  pybind11_add_module(_vision MODULE csrc/bindings/vision.cpp)
  target_include_directories(_vision PRIVATE csrc)
  target_link_libraries(_vision PRIVATE attnpatch_vision)
  if(ATTNPATCH_FACES)
    target_sources(_vision PRIVATE csrc/bindings/faces.cpp)
    target_compile_definitions(_vision PRIVATE ATTNPATCH_FACES)
    target_link_libraries(_vision PRIVATE attnpatch_vision_faces)
  endif()
  install(TARGETS _vision DESTINATION attnpatch)
endif()
