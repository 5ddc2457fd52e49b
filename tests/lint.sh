#!/usr/bin/env bash
# Checks of the sources themselves: formatting, include direction, the dialect of GPU kernels, comments
# of the API, names that are defined twice, size of the tracked tree.
set -euo pipefail
cd "$(dirname "$0")/.."

# The checkout may belong to somebody else (a container that runs as root).
git() { command git -c safe.directory="$PWD" "$@"; }
sources() { git ls-files -co --exclude-standard -- "$@" | while read -r f; do [ ! -f "$f" ] || echo "$f"; done; }

sources '*.cc' '*.h' '*.cu' '*.cuh' | xargs clang-format --dry-run -Werror
echo "clang-format: clean"
python3 tests/include_direction_test.py -q
python3 tests/include_direction.py
python3 tests/simt_dialect.py --self-test
python3 tests/simt_dialect.py
python3 tests/proto_comments.py
python3 tests/one_definition.py --self-test
python3 tests/one_definition.py
bytes=$(git ls-files -z | xargs -0 du -cb 2>/dev/null | tail -n 1 | cut -f1)
if [ "$bytes" -gt $((40 * 1024 * 1024)) ]; then
  echo "The tracked tree has $bytes bytes; the limit is 40 MiB." >&2
  exit 1
fi
echo "tracked tree: $((bytes / 1024 / 1024)) MiB"
