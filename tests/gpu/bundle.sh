#!/usr/bin/env bash
# Makes a folder that holds all that a first run on a machine with GPUs needs, and nothing of this one:
# programs with code for GPUs, the libraries they load (the C library and its loader, too), the nano
# model, the reference checkpoints with what transformers computes for them, and run.sh.
#
#   tests/gpu/bundle.sh [--build FOLDER] FOLDER
#
# --build: a release build (default build/cpu-release) whose targets of gpu_bundle_programs are built.
# Copy the folder to the machine and start run.sh there.
set -euo pipefail
cd "$(dirname "$0")/../.."

build=build/cpu-release
if [ "${1:-}" = --build ]; then build="$2"; shift 2; fi
if [ $# -ne 1 ]; then sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; fi
out="$1"
most_bytes=$((60 << 20))

# `tessera` serves; the others test (gpu_self_test_emulated is for `run.sh --emulated`).
programs=(
  tessera
  tests/bench/make_checkpoint
  tests/gpu/gpu_self_test
  tests/gpu/gpu_self_test_emulated
  tests/gpu/gpu_tests
)
# One of each kind: bias, sliding window, experts, layers with and without experts. Many experts have
# the steps' checkpoint; the reference one would be 2 MiB too many.
reference_models=(dense-bias dense-sliding moe moe-sparse-step-2)
# The C library's parts that programs find by name when they run, so that none of the machine's is
# mixed with ours: NVIDIA's libraries load the first four.
found_by_name=(libdl.so.2 libpthread.so.0 librt.so.1 libm.so.6 libresolv.so.2 libnss_files.so.2 libnss_dns.so.2)

mkdir -p "$out"
if [ -n "$(ls -A "$out")" ]; then echo "bundle.sh: $out is not empty" >&2; exit 2; fi
mkdir "$out/bin" "$out/lib" "$out/data" "$out/models"

for program in "${programs[@]}"; do
  if [ ! -x "$build/$program" ]; then
    echo "bundle.sh: there is no $build/$program; build the target gpu_bundle_programs (needs nvcc)" >&2
    exit 1
  fi
  strip -o "$out/bin/${program##*/}" "$build/$program"
done

# Lines of ldd: "name => path (address)", and the loader as "path (address)".
libraries="$(for program in "${programs[@]}"; do ldd "$build/$program"; done)"
if missing="$(grep 'not found' <<<"$libraries")"; then echo "bundle.sh: $missing" >&2; exit 1; fi
awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' <<<"$libraries" | sort -u |
  while read -r path; do cp -Lf "$path" "$out/lib/"; done
libc_folder="$(dirname "$(awk '$1 == "libc.so.6" { print $3; exit }' <<<"$libraries")")"
for name in "${found_by_name[@]}"; do cp -Lf "$libc_folder/$name" "$out/lib/"; done
find "$out/lib" -type f -exec strip --strip-unneeded {} +

cp -r deploy/models/nano "$out/models/nano"
mkdir -p "$out/data/reference/models"
cp -r "${reference_models[@]/#/tests/data/reference/models/}" "$out/data/reference/models/"
cp tests/gpu/program tests/gpu/run.sh tests/gpu/stages.sh "$out/"
chmod +x "$out/program" "$out/run.sh"
git -c safe.directory="$PWD" rev-parse HEAD >"$out/commit" 2>/dev/null || echo unknown >"$out/commit"

bytes="$(find "$out" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')"
echo "$out: $((bytes >> 20)) MiB ($bytes bytes; at most $most_bytes)"
if [ "$bytes" -gt "$most_bytes" ]; then echo "bundle.sh: too large" >&2; exit 1; fi
