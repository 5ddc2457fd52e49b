#!/usr/bin/env bash
# Builds Tessera's image with buildah. The same sources and packages give the same digest.
#
#   deploy/container/build.sh                     tessera:VERSION, for CPUs
#   deploy/container/build.sh --gpu               tessera-gpu:VERSION, with NCCL and cuBLASLt
#   deploy/container/build.sh --binary FOLDER     with the binary of a build folder of this machine
#                                                 (Debian 12) instead of compiling in the image
#   deploy/container/build.sh --base IMAGE        instead of docker.io/library/debian:12-slim
#   deploy/container/build.sh --sbom FILE         also writes the image's list of packages (SPDX 2.3)
#
# Environment: BUILDAH (the command with options of yours), BUILDAH_OPTIONS (of `buildah bud`), REVISION
# (what the label says; default: the commit, and -dirty where files differ from it).
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"

kind=cpu folder="" base=docker.io/library/debian:12-slim sbom=""
while [ $# -gt 0 ]; do
  case "$1" in
    --gpu) kind=gpu ;;
    --binary | --base | --sbom)
      if [ $# -lt 2 ]; then echo "build.sh: $1 needs a value (try --help)" >&2; exit 2; fi
      case "$1" in
        --binary) folder="$2" ;;
        --base) base="$2" ;;
        --sbom) sbom="$2" ;;
      esac
      shift
      ;;
    -h | --help) sed -n '2,13p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) echo "build.sh: unknown argument '$1' (try --help)" >&2; exit 2 ;;
  esac
  shift
done
read -ra buildah <<< "${BUILDAH:-buildah}"
read -ra options <<< "${BUILDAH_OPTIONS:-}"
if ! command -v "${buildah[0]}" >/dev/null; then
  echo "build.sh: ${buildah[0]} is not installed (Debian package buildah)" >&2
  exit 1
fi

version="$(sed -n 's/^project(tessera VERSION \([0-9.]*\).*/\1/p' "$root/CMakeLists.txt")"
git() { command git -c safe.directory="$root" -C "$root" "$@"; }
revision="${REVISION:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}"
# A binary may hold what is not committed yet.
if [ -z "${REVISION:-}" ] && [ -n "$folder" ] && ! git diff --quiet HEAD 2>/dev/null; then
  revision+=-dirty
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
arguments=(--build-arg "FOR=$kind")
context="$work/context"
mkdir "$context"
if [ -n "$folder" ]; then
  mkdir -p "$context/deploy/container"
  cp "$root"/deploy/install-*.sh "$context/deploy/"
  cp "$root"/deploy/container/*.sh "$context/deploy/container/"
  cp "$folder/tessera" "$context/tessera"
  "$root/deploy/container/static-packages.sh" "$folder" tessera > "$context/static-packages"
  arguments+=(--build-arg BINARY=prebuilt)
else
  git archive HEAD | tar -x -C "$context"
fi

name="tessera:$version"
if [ "$kind" = gpu ]; then name="tessera-gpu:$version"; fi
"${buildah[@]}" bud --timestamp 0 --format oci --target "$kind" "${arguments[@]}" \
  --build-arg "BASE=$base" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
  "${options[@]}" -f "$root/deploy/container/Containerfile" -t "$name" "$context"
if [ -n "$sbom" ]; then
  container="$("${buildah[@]}" from "$name")"
  "$root/deploy/container/sbom.sh" "$("${buildah[@]}" mount "$container")" > "$sbom"
  "${buildah[@]}" rm "$container" > /dev/null
fi
echo "$name"
