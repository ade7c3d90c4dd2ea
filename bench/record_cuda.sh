#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

# Builds for the GPU of this machine, tests, checks with compute-sanitizer where it is there, measures,
# and writes a record for docs/cuda.md to out/cuda.md (another file: $RECORD). Fetches nothing: it
# needs nvcc, CMake, Ninja, Highway, and a Python (another than python3: $PYTHON) with torch for CUDA,
# pybind11, pytest, hypothesis, safetensors, tqdm; for the C++ tests GoogleTest. What is not in the
# system's folders is found by CMAKE_PREFIX_PATH. $BUILD: the build's folder; $BENCH: arguments of
# bench/compare_cuda.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(command -v "${PYTHON:-python3}")
build=$(realpath -m "${BUILD:-build/gpu}")
record=${RECORD:-out/cuda.md}
package=$build/python/attnpatch
log=$build/record

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
# Runs a step, keeps its output, and leaves a line about it in the record; a failure stops nothing.
failed=0
step() {
  local name=$1 begin=$SECONDS outcome=passed
  shift
  say "$name"
  if ! "$@" >"$log.$name.txt" 2>&1; then
    outcome=FAILED
    failed=1
  fi
  tail -n 3 "$log.$name.txt" >&2
  local last
  last=$(grep -E '[0-9]+ (passed|failed|error)|\[  (PASSED|SKIPPED|FAILED)|ERROR SUMMARY' \
    "$log.$name.txt" | tail -n 3 | sed 's/\x1b\[[0-9;]*m//g; s/^=* *//; s/ *=*$//' | paste -sd ';' || true)
  printf -- '- %s: **%s** in %d s. %s\n' "$name" "$outcome" $((SECONDS - begin)) "$last" >>"$record"
}

say "Building for this machine's GPU"
mkdir -p "$build" "$(dirname "$record")"
configure() {
  pybind11_ROOT=$("$python" -m pybind11 --cmakedir) cmake -S . -B "$build" -G Ninja \
    -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$python" -DATTNPATCH_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES="${ARCHITECTURES:-native}" -DATTNPATCH_TESTS="$1"
}
tests=ON
configure ON >"$log.cmake.txt" 2>&1 || { # without GoogleTest
  tests=OFF
  configure OFF >"$log.cmake.txt" 2>&1
} || {
  tail -n 30 "$log.cmake.txt" >&2
  exit 1
}
cmake --build "$build" --target _core cuda >"$log.build.txt" || {
  tail -n 30 "$log.build.txt" >&2
  exit 1
}

# Whether this Python has a module.
has() { "$python" -c "import importlib.util as u; u.find_spec('$1') or exit(1)" 2>/dev/null; }
if has attnpatch.ops && ! has attnpatch._cuda; then
  say "attnpatch is installed without its CUDA kernels: -C cmake.define.ATTNPATCH_CUDA=ON, or uninstall it"
  exit 1
fi
# Where it is not installed: its sources beside the modules, and what names its version.
mkdir -p "$package"
for entry in python/attnpatch/*; do ln -sfn "$PWD/$entry" "$package/$(basename "$entry")"; done
for module in "$build"/_core.* "$build"/_cuda.*; do ln -sf "$module" "$package/"; done
mkdir -p "$build/python/attnpatch-0.dist-info"
printf 'Metadata-Version: 2.1\nName: attnpatch\nVersion: 0\n' \
  >"$build/python/attnpatch-0.dist-info/METADATA"
export PYTHONPATH=$build/python ATTNPATCH_BACKEND=cuda

"$python" - >"$record" <<'PYTHON'
import platform, subprocess, time
import torch

def first_line(*command, at=0):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()[at]
    except (OSError, IndexError):
        return "unknown"

gpu = torch.cuda.get_device_properties(0)
print(f"## {torch.cuda.get_device_name(0)}, {time.strftime('%Y-%m-%d', time.gmtime())}")
print(f"- compute capability {gpu.major}.{gpu.minor}, {gpu.multi_processor_count} multiprocessors, "
      f"{gpu.total_memory / 2**30:.0f} GiB, L2 {gpu.L2_cache_size / 2**20:.0f} MiB")
driver = first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
print(f"- driver {driver}; {first_line('nvcc', '--version', at=-2)}; torch {torch.__version__}; "
      f"Python {platform.python_version()}")
print(f"- revision {first_line('git', 'rev-parse', '--short', 'HEAD')}")
PYTHON

[[ $tests == ON ]] && step cpp-tests "$build/tests_cpp/cuda_tests" --gtest_brief=1
step python-tests "$python" -m pytest -q -W default -p no:cacheprovider \
  tests_py/ops tests_py/patches/test_run_formulas.py tests_py/patches/token_reduction/test_formulas.py
if command -v compute-sanitizer >/dev/null && [[ $tests == ON ]]; then
  for tool in memcheck racecheck synccheck initcheck; do
    step "sanitizer-$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$build/tests_cpp/cuda_tests" --gtest_brief=1
  done
fi
printf '\n' >>"$record"
say "Measuring"
# shellcheck disable=SC2086 # several arguments
"$python" bench/compare_cuda.py ${BENCH:-} 2>"$log.bench.txt" >>"$record" ||
  { failed=1 && tail -n 20 "$log.bench.txt" >&2; }
cat "$record"
exit $failed
