#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

# Runs what bench/cuda_kit.sh has built on this machine's GPU and writes a record for docs/cuda.md, in
# eight minutes, the most telling first: every step has its time, and stands in the record as soon as
# it ends, so that a machine that is taken away leaves what was found out till then. Fetches and
# builds nothing.
#
#   bench/record_cuda.sh --verdicts  what `attnpatch tune` finds, and no more: versions first tune
#   bench/record_cuda.sh [STEP…]    all steps, or some of: versions first shapes bench profile
#                                   cpp-tests sanitizers python-tests more-sizes compile tune
#
# $KIT: the kit (out/cuda-kit). $RECORD: the record's folder (out/cuda-record). $PYTHON: python3.
# $SECONDS_SCALE: times the steps' limits, for slow machines. $SECONDS_IN_ALL (480): when they are
# over, what is left is not run, and the record says so. Exit status: 0 where every step passed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
kit=$(realpath -m "${KIT:-out/cuda-kit}")
python=${PYTHON:-python3}
folder=$(realpath -m "${RECORD:-out/cuda-record}")
scale=${SECONDS_SCALE:-1}
in_all=${SECONDS_IN_ALL:-480}
operators=(branch_attention biased_attention attention_column_mean tile_attention pool_tokens blur_and_blend)
if [[ ! -d $kit/python ]]; then
  echo "$kit: expected a kit, got no such folder: bench/cuda_kit.sh builds one" >&2
  exit 2
fi
mkdir -p "$folder"
record=$folder/record.md
: >"$record"
export ATTNPATCH_BACKEND=cuda PYTHONPATH=$kit/python ATTNPATCH_CACHE=$folder
export LD_LIBRARY_PATH=$kit/python/attnpatch:${LD_LIBRARY_PATH:-}
cd "$kit"
failed=0
last_of() {
  grep -aE '[0-9]+ (passed|failed|error)|\[  (PASSED|SKIPPED|FAILED)|ERROR SUMMARY|[Ee]rror|WRONG' "$1" |
    tail -n 2 | cut -c1-200 | sed 's/\x1b\[[0-9;]*m//g; s/^=* *//; s/ *=*$//' | paste -sd ';'
}
# Notes how a step ended: its name, its status, its seconds, the file with what it said.
note() {
  local outcome=passed
  if (($2 == 124 || $2 == 137)); then outcome="STOPPED, its time was over"; fi
  if (($2 != 0 && $2 != 124 && $2 != 137)); then outcome="FAILED ($2)"; fi
  if (($2 != 0)); then failed=1; fi
  printf -- '- %s: **%s** in %d s. %s\n' "$1" "$outcome" "$3" "$(last_of "$4")" | tee -a "$record"
  sync "$record"
}
# Notes a step that is not run: its name, why.
note_missing() {
  printf -- '- %s: **NOT RUN**, %s\n' "$1" "$2" | tee -a "$record"
  sync "$record"
}
# The seconds that a step with this limit has; fails, and notes the names, where none are left.
seconds_for() { # a limit, names
  seconds=$(($1 * scale))
  if ((seconds > in_all - SECONDS)); then seconds=$((in_all - SECONDS)); fi
  if ((seconds >= 1)); then return; fi
  failed=1
  shift
  for name in "$@"; do note_missing "$name" "no time was left"; done
  return 1
}
# Runs a command: its name, its seconds at most, the command.
step() {
  local name=$1 seconds begin=$SECONDS status=0
  seconds_for "$2" "$name" || return 1
  shift 2
  timeout --kill-after=5 "$seconds" "$@" >"$folder/$name.txt" 2>&1 || status=$?
  note "$name" "$status" $((SECONDS - begin)) "$folder/$name.txt"
}
# Runs commands side by side: seconds, then a name and a command line each.
together() {
  local limit=$1 seconds begin=$SECONDS names=() children=() status
  shift
  for ((i = 1; i < $#; i += 2)); do names+=("${!i}"); done
  seconds_for "$limit" "${names[@]}" || return 1
  names=()
  while (($# > 0)); do
    timeout --kill-after=5 "$seconds" bash -c "$2" >"$folder/$1.txt" 2>&1 &
    names+=("$1")
    children+=($!)
    shift 2
  done
  for i in "${!children[@]}"; do
    status=0
    wait "${children[i]}" || status=$?
    note "${names[i]}" "$status" $((SECONDS - begin)) "$folder/${names[i]}.txt"
  done
}
# A step whose output is a part of the record.
table() {
  local name=$1
  step "$@" || return 1
  { printf '\n' && grep -av Warning "$folder/$name.txt" && printf '\n'; } >>"$record"
}
per_operator() { # a name's beginning and a command line in which OPERATOR stands
  local words=()
  for operator in "${operators[@]}"; do words+=("$1-$operator" "${2//OPERATOR/$operator}"); done
  together "$3" "${words[@]}"
}

do_versions() { table versions 20 "$python" bench/describe_cuda.py; }
do_first() { per_operator first "'$python' bench/first_call.py OPERATOR" 40; }
do_shapes() {
  per_operator shapes "'$python' -m attnpatch.ops.admission.child --operator OPERATOR \
    --dtype float16 bfloat16 --rounds 1 --seconds 0.001 | tee /dev/stderr | \
    '$python' bench/first_call.py --verdicts" 60
}
do_bench() {
  table bench 60 "$python" bench/compare_cuda.py --size 1024 --rounds 7
  if [[ -d before ]]; then
    PYTHONPATH=$kit/before table bench-before 60 "$python" bench/compare_cuda.py --size 1024 --rounds 7
  fi
}
do_profile() {
  if ! command -v ncu >/dev/null; then
    note_missing profile "no ncu here"
    return
  fi
  step profile 40 ncu --set basic --clock-control none --launch-count 6 \
    --kernel-name regex:_half "$python" bench/first_call.py branch_attention
}
do_cpp-tests() { step cpp-tests 60 ./cuda_tests --gtest_brief=1; }
do_sanitizers() {
  if ! command -v compute-sanitizer >/dev/null; then
    note_missing sanitizers "no compute-sanitizer here"
    return
  fi
  local words=()
  for tool in memcheck racecheck synccheck initcheck; do
    words+=("$tool" "compute-sanitizer --tool $tool --error-exitcode 1 ./cuda_tests --gtest_brief=1")
  done
  together 120 "${words[@]}"
}
do_python-tests() {
  local words=()
  for operator in "${operators[@]}"; do
    words+=("python-$operator" "'$python' -m pytest -q -W default -p no:cacheprovider \
      -k 'not compile' tests_py/ops/test_$operator.py")
  done
  words+=(python-cuda "'$python' -m pytest -q -W default -p no:cacheprovider -k 'not compile' \
    tests_py/ops/test_cuda.py")
  together 90 "${words[@]}"
}
do_more-sizes() {
  table bench-more 90 "$python" bench/compare_cuda.py --size 512 768 --rounds 5
  table bench-bfloat16 60 "$python" bench/compare_cuda.py --size 1024 --rounds 5 --dtype bfloat16
}
do_compile() {
  step compile 120 "$python" -m pytest -q -W default -p no:cacheprovider -k compile \
    tests_py/ops/test_cuda.py
}
do_tune() { # verdicts to ship: python/attnpatch/ops/admission/shipped
  ATTNPATCH_BACKEND=auto step tune 200 "$python" -m attnpatch_command tune \
    --seconds 60 --dtype float16 bfloat16
}

if [[ ${1:-} == --verdicts ]]; then
  set -- versions first tune
elif (($# == 0)); then
  set -- versions first shapes bench profile cpp-tests sanitizers python-tests more-sizes compile tune
fi
for name in "$@"; do
  if ! declare -F "do_$name" >/dev/null; then
    echo "step: expected one of those at the head of this file, got $name" >&2
    exit 2
  fi
  "do_$name"
done
exit "$failed"
