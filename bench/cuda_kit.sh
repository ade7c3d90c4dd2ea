#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

# Builds, on a machine without a GPU, all that bench/record_cuda.sh runs on one: a folder that needs
# nothing there but a Python with numpy and torch for CUDA (pytest and hypothesis for its tests).
#
#   bench/cuda_kit.sh [REVISION]     to out/cuda-kit; the kernels of REVISION are measured beside
#
# $PYTHON: of the version that the GPU's machine has, with headers; it needs no torch. $TORCH: a
# torch folder to build against. $ARCHITECTURES: of the GPU (90). Modules are at most some 20 MB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
kit=$(realpath -m "${KIT:-out/cuda-kit}")
build=${BUILD:-build/cuda-kit}
torch=${TORCH:-$(.venv/bin/python -c 'import importlib.util as u
print(u.find_spec("torch").submodule_search_locations[0])')}
pybind=$(.venv/bin/python -m pybind11 --cmakedir)

# Builds a source tree: $1 its folder, $2 the build's.
build_modules() {
  local launcher
  launcher=$(command -v ccache || true)
  pybind11_ROOT=$pybind cmake -S "$1" -B "$2" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DPython_EXECUTABLE="$(command -v "$python")" -DATTNPATCH_TORCH="$torch" \
    -DCMAKE_CXX_COMPILER_LAUNCHER="$launcher" -DCMAKE_CUDA_COMPILER_LAUNCHER="$launcher" \
    -DATTNPATCH_CUDA=ON -DATTNPATCH_TESTS=ON -DCMAKE_CUDA_ARCHITECTURES="${ARCHITECTURES:-90}" \
    -DCMAKE_CUDA_FLAGS=-lineinfo -DCMAKE_DISABLE_FIND_PACKAGE_OpenCV=ON \
    -DCMAKE_BUILD_RPATH='$ORIGIN' -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON \
    -DCMAKE_INSTALL_RPATH='$ORIGIN;$ORIGIN/python/attnpatch'
  cmake --build "$2" --target _core _cuda cuda_tests
}

build_modules . "$build/now"
rm -rf "$kit"
mkdir -p "$kit/python"
cp -r python/attnpatch python/attnpatch_command "$kit/python/"
find "$kit/python" -name __pycache__ -prune -exec rm -r {} +
cp "$build"/now/_core.*.so "$build"/now/_cuda.*.so "$kit/python/attnpatch/"
cp "$build/now/tests_cpp/cuda_tests" "$kit/"
# Highway's library beside what needs it; modules are found without it where it is installed.
library=$(ldd "$build"/now/_core.*.so | awk '/libhwy/ { print $3 }')
if [[ -n $library ]]; then cp -L "$library" "$kit/python/attnpatch/"; fi
# They are imported, and no torch brings them; they are for every Python.
for package in safetensors tqdm; do
  cp -r "$(.venv/bin/python -c 'import importlib.util as u, sys
print(u.find_spec(sys.argv[1]).submodule_search_locations[0])' "$package")" "$kit/python/"
done
mkdir -p "$kit/python/attnpatch-0.dist-info"
printf 'Metadata-Version: 2.1\nName: attnpatch\nVersion: 0\n' \
  >"$kit/python/attnpatch-0.dist-info/METADATA"
cp -r bench tests_py pyproject.toml "$kit/"

if [[ -n ${1:-} ]]; then
  before=$(realpath -m "$build/source-before")
  if [[ -d $before ]]; then git worktree remove --force "$before"; fi
  git worktree add --detach "$before" "$1" >/dev/null
  # Whatever it builds with: the build's description is today's.
  cp cmake/python_modules.cmake "$before/cmake/"
  build_modules "$before" "$build/before"
  git worktree remove --force "$before"
  cp -r "$kit/python" "$kit/before"
  cp "$build"/before/_cuda.*.so "$kit/before/attnpatch/"
fi
git rev-parse --short HEAD >"$kit/revision"
du -sh "$kit" >&2
