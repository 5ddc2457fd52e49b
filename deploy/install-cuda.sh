#!/usr/bin/env bash
# Finds or installs what compiling the CUDA kernels needs, no GPU among it: the toolkit (nvcc,
# headers, static runtime), and the two tools that show the machine code. Does nothing when they
# are there; needs no root and changes nothing outside of its folder.
#
#   deploy/install-cuda.sh            the toolkit of the machine, or else one from PyPI
#   deploy/install-cuda.sh --check    only say what is missing (exit code 1 when something is)
#
# The folder is $TESSERA_CUDA_DIR, by default ~/.cache/tessera/cuda-13.0; CMake looks there, too.
# Environment: TESSERA_CUDA_OWN=1 (do not use the toolkit of the machine).
set -euo pipefail

folder="${TESSERA_CUDA_DIR:-$HOME/.cache/tessera/cuda-13.0}"
# The versions that tests/kernels/cuda/budgets.txt was made with. The tools came to PyPI later.
toolkit=(
  nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
)
tools=(nvidia-cuda-cuobjdump==13.2.78 nvidia-cuda-nvdisasm==13.2.78)

usage() { sed -n '2,10p' "$0" | sed 's/^# \{0,1\}//'; }

check_only=false
case "${1:-}" in
  "") ;;
  --check) check_only=true ;;
  -h | --help) usage; exit 0 ;;
  *) echo "install-cuda.sh: unknown argument '$1' (try --help)" >&2; exit 2 ;;
esac

# Where a program is: in the folder, on the path, or where toolkits are usually unpacked.
where() { # PROGRAM
  local place
  for place in "$folder"/{toolkit,tools}/nvidia/cu13/bin/"$1"; do
    if [ -x "$place" ]; then echo "$place"; return; fi
  done
  if [ -n "${TESSERA_CUDA_OWN:-}" ]; then return 1; fi
  if place="$(command -v "$1")"; then echo "$place"; return; fi
  if [ -x "/usr/local/cuda/bin/$1" ]; then echo "/usr/local/cuda/bin/$1"; return; fi
  return 1
}
have_toolkit() { where nvcc >/dev/null; }
have_tools() { where cuobjdump >/dev/null && where nvdisasm >/dev/null; }

unpack() { # NAME PACKAGES...
  local to="$folder/$1/nvidia/cu13"
  shift
  rm -rf "${to%/nvidia/cu13}"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --no-deps --target "${to%/nvidia/cu13}" "$@" >&2
  # The profile of nvcc expects the libraries in lib64.
  if [ -d "$to/lib" ] && [ ! -e "$to/lib64" ]; then ln -s lib "$to/lib64"; fi
}

missing=()
have_toolkit || missing+=("${toolkit[@]}")
have_tools || missing+=("${tools[@]}")
if [ ${#missing[@]} -ne 0 ]; then
  echo "Missing for CUDA: ${missing[*]}" >&2
  $check_only && exit 1
  if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "install-cuda.sh needs pip (Debian package python3-pip)." >&2
    exit 1
  fi
  have_toolkit || unpack toolkit "${toolkit[@]}"
  have_tools || unpack tools "${tools[@]}"
  if ! have_toolkit || ! have_tools; then
    echo "install-cuda.sh: the packages do not hold nvcc, cuobjdump and nvdisasm." >&2
    exit 1
  fi
fi
echo "The CUDA toolkit is there: $(where nvcc)" >&2
