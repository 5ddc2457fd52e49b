#!/usr/bin/env bash
# Installs the Debian 12 packages that Tessera builds and tests with. Does nothing, and needs no
# root, when they are all there.
#
#   deploy/install-deps.sh            what building and serving need
#   deploy/install-deps.sh --tests    also what the test suite needs
#   deploy/install-deps.sh --check    only say what is missing (exit code 1 when something is)
set -euo pipefail

build_packages=(
  g++ cmake ninja-build ccache pkg-config
  libgrpc++-dev protobuf-compiler-grpc protobuf-compiler libprotobuf-dev grpc-proto
  libabsl-dev prometheus-cpp-dev libgloo-dev libpcre2-dev libutf8proc-dev libsimdjson-dev
  nlohmann-json3-dev libyaml-cpp-dev libboost1.81-dev libboost-context1.81-dev libssl-dev zlib1g-dev
  libgtest-dev libgmock-dev libbenchmark-dev libnghttp2-dev curl
)
test_packages=(
  git python3 python3-pip python3-grpcio python3-protobuf procps iproute2 openssl
  prometheus prometheus-alertmanager
  bubblewrap haproxy nginx-light buildah podman runc mmdebstrap catatonit
  clang clang-format clang-tidy llvm libclang-rt-14-dev
  chromium fonts-dejavu-core poppler-utils
)

usage() { sed -n '2,7p' "$0" | sed 's/^# \{0,1\}//'; }

wanted=("${build_packages[@]}")
check_only=false
for argument in "$@"; do
  case "$argument" in
    --tests) wanted+=("${test_packages[@]}") ;;
    --check) check_only=true ;;
    -h | --help) usage; exit 0 ;;
    *) echo "install-deps.sh: unknown argument '$argument' (try --help)" >&2; exit 2 ;;
  esac
done

missing=()
for package in "${wanted[@]}"; do
  if ! dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
    missing+=("$package")
  fi
done

if [ ${#missing[@]} -eq 0 ]; then
  echo "All packages are installed." >&2
  exit 0
fi
echo "Missing packages: ${missing[*]}" >&2
$check_only && exit 1

run_as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "Run this as root, or install sudo: the packages above need root to install." >&2
    exit 1
  fi
  run_as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
if ! "${run_as_root[@]}" apt-get update -qq; then
  echo "apt-get update failed; the packages above can only be installed with a network." >&2
  exit 1
fi
"${run_as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
