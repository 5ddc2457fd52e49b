#!/usr/bin/env bash
# Builds Tessera and runs its tests. Installs missing Debian packages first (as root or by sudo).
#
#   tests/run.sh                  release build, every test, source checks
#   tests/run.sh --only REGEX     release build, only the tests whose name matches (ctest -R)
#   tests/run.sh --asan           kernels, text, checkpoints and scheduler under ASan and UBSan
#   tests/run.sh --tsan           thread pool and engine loop under ThreadSanitizer
#   tests/run.sh --ci             release, source checks, --asan and --tsan: continuous integration
#   tests/run.sh --fuzz           every fuzz target for a few seconds on its corpus
#   tests/run.sh --tidy           clang-tidy on every source file (some 15 minutes on two cores)
#
# Environment: JOBS (parallel build jobs, default: all CPUs), FUZZ_SECONDS (per target, default 5),
# TESSERA_FULL=1 (every layout on 2 and 4 processes with every way to exchange tokens: minutes more),
# TESSERA_FAULT_RUNS=50 TESSERA_FAULT_STOPS=20 (processes killed and stopped, default 20 and 5).
set -euo pipefail
cd "$(dirname "$0")/.."

jobs="${JOBS:-$(nproc)}"
fuzz_seconds="${FUZZ_SECONDS:-5}"

usage() { sed -n '2,14p' "$0" | sed 's/^# \{0,1\}//'; }
stage() { printf '\n== %s (%s s so far)\n' "$*" "$SECONDS"; }

build() { # PRESET [CMAKE BUILD ARGUMENTS]
  local preset="$1"
  shift
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset" -j "$jobs" "$@"
}

release() { # [CTEST ARGUMENTS]
  stage "Release build"
  build cpu-release
  stage "Tests"
  ctest --test-dir build/cpu-release --output-on-failure -j "$jobs" "$@"
}

sanitizer() { # PRESET LABEL
  stage "Build with $1"
  build "$1" --target "$2_tests"
  stage "Tests with $1"
  ctest --test-dir "build/$1" --output-on-failure -j "$jobs" -L "^$2\$"
}

asan() { sanitizer cpu-asan asan; }
tsan() { sanitizer cpu-tsan tsan; }

fuzz() {
  stage "Fuzz targets, $fuzz_seconds s each"
  build fuzz --target fuzzers
  local target name
  for target in build/fuzz/tests/fuzz/fuzz_*; do
    [ -x "$target" ] && [ -f "$target" ] || continue
    name="$(basename "$target")"
    name="${name#fuzz_}"
    mkdir -p "build/fuzz/corpus/$name"
    echo "fuzzing $name"
    "$target" -max_total_time="$fuzz_seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=0 \
      -verbosity=0 -artifact_prefix="build/fuzz/$name-" \
      "build/fuzz/corpus/$name" "tests/fuzz/corpus/$name"
  done
}

lint() {
  stage "Source checks"
  tests/lint.sh
}

tidy() {
  stage "clang-tidy"
  build tidy --target generated_sources
  tests/lint.sh --tidy build/tidy
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
esac
deploy/install-deps.sh --tests

case "${1:-}" in
  "") release; lint ;;
  --only) release -R "${2:?--only needs a regular expression}" ;;
  --asan) asan ;;
  --tsan) tsan ;;
  --fuzz) fuzz ;;
  --tidy) tidy ;;
  --ci)
    lint
    tsan
    asan
    release
    ;;
  *) echo "tests/run.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
esac
stage "Done"
