#!/usr/bin/env bash
# Prints what an image is made of as SPDX 2.3, from dpkg's records inside of it. Needs debsbom (PyPI),
# found on PATH or in $DEBSBOM; the same image gives the same text.
#   sbom.sh ROOT_FOLDER_OF_THE_IMAGE
set -euo pipefail
read -ra debsbom <<< "${DEBSBOM:-debsbom}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
# Without a seed of its own Python orders the packages otherwise in every run.
PYTHONHASHSEED=0 "${debsbom[@]}" generate --root "$1" --distro-name debian --distro-version 12 --distro-arch amd64 \
  --sbom-type spdx --validate --timestamp 1970-01-01T00:00:00Z --spdx-namespace https://example.com/tessera/sbom \
  --out "$work/sbom" > /dev/null
cat "$work/sbom.spdx.json"
