#!/usr/bin/env bash
# Checks of the sources themselves.
#
#   tests/lint.sh                 formatting, include direction, file and tree sizes
#   tests/lint.sh --tidy BUILD    clang-tidy with the compile commands of a clang build
set -euo pipefail
cd "$(dirname "$0")/.."

sources() { git ls-files -co --exclude-standard -- "$@" | while read -r f; do [ -f "$f" ] && echo "$f"; done; }

if [ "${1:-}" = "--tidy" ]; then
  build="${2:?--tidy needs a build folder}"
  sources 'kernels/*.cc' 'parallel/*.cc' 'engine/*.cc' 'server/*.cc' |
    xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p "$build" 2>/dev/null
  echo "clang-tidy: clean"
  exit 0
fi

sources '*.cc' '*.h' '*.cu' '*.cuh' | xargs clang-format --dry-run -Werror
echo "clang-format: clean"
python3 tests/include_direction.py
bytes=$(git ls-files -z | xargs -0 du -cb 2>/dev/null | tail -n 1 | cut -f1)
if [ "$bytes" -gt $((40 * 1024 * 1024)) ]; then
  echo "The tracked tree has $bytes bytes; the limit is 40 MiB." >&2
  exit 1
fi
echo "tracked tree: $((bytes / 1024 / 1024)) MiB"
