#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

# Runs a compiler and keeps what the assembler says of registers and spills in FILE, whose name comes
# first; all else it says is shown. tools/cuda_resources.py reads such files.
file=$1
shift
"$@" 2>"$file"
status=$?
grep -v -e '^ptxas info' -e '^    [0-9]* bytes stack frame' "$file" >&2
exit "$status"
