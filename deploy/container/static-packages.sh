#!/usr/bin/env bash
# Prints the Debian packages whose static libraries a program is linked with. Scanners that go by the
# shared libraries of an image miss them, and gRPC is among them.
#   static-packages.sh BUILD_FOLDER TARGET
set -euo pipefail
ninja -C "$1" -t commands "$2" | tail -n 1 | tr ' ' '\n' | grep -E '^/usr/lib/.*\.a$' | sort -u |
  while read -r library; do dpkg -S "$library"; done | cut -d: -f1 | sort -u |
  while read -r package; do dpkg-query -W -f '${Package} ${Version} ${Architecture} ${Source}\n' "$package"; done
