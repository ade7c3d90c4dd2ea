#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

# Runs clang-tidy over our C++ sources as the extension modules and the C++ tests compile them.
# Usage: tools/clang_tidy.sh [PATH_PATTERN]. ./run build has to run first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One folder for one run: the modules' commands, and those of the tests that are not among them.
commands=build/clang-tidy/compile_commands.json
mkdir -p "$(dirname "$commands")"
cmake --preset debug >/dev/null
.venv/bin/python - "$commands" build/cp*/compile_commands.json \
  build/debug/compile_commands.json <<'PYTHON'
import json, pathlib, sys

target, *sources = map(pathlib.Path, sys.argv[1:])
entries = {}
for source in sources:
    for entry in json.loads(source.read_text()):
        entries.setdefault(entry["file"], entry)
target.write_text(json.dumps(list(entries.values()), indent=1))
PYTHON

# GCC's options that Clang does not know are no findings.
run-clang-tidy -quiet -p "$(dirname "$commands")" -j "$(nproc)" \
  -extra-arg=-Wno-unknown-warning-option -extra-arg=-Wno-ignored-optimization-argument \
  "${1:-$PWD/(csrc|tests_cpp)/}" 2>&1 |
  { grep -v -E '^clang-tidy|warnings? generated|^Suppressed' || true; }
