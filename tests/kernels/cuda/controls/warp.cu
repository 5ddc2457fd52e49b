// Warp-wide operations.
#include "tests/kernels/cuda/controls/controls.h"

namespace tessera::cuda {
namespace {

using simt::kFullMask;
using simt::TensorMap;
namespace ptx = simt::ptx;

SIMT_DEVICE uint32_t Lane() { return threadIdx.x % 32; }

template <bool kBug>
SIMT_KERNEL(32, 1)
ShuffleFromAbsentLane(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  const uint32_t mask = 0xffffU;
  if (Lane() < 16) b.out[Lane()] = __shfl_sync(mask, b.in[Lane()], kBug ? 20 : 12);
}

template <bool kBug>
SIMT_KERNEL(32, 1)
LaneOutsideItsMask(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  b.words[Lane()] = __ballot_sync(kBug ? 0x7fffffffU : kFullMask, b.in[Lane()] > 3);
}

template <bool kBug>
SIMT_KERNEL(32, 1)
MasksThatDiffer(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  b.words[Lane()] = __reduce_add_sync(kBug && Lane() >= 16 ? 0xffff0000U : kFullMask, Lane());
  __syncwarp();
}

template <bool kBug>
SIMT_KERNEL(32, 1)
ShuffleInDivergentCode(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  float value = b.in[Lane()];
  if (!kBug || Lane() < 24) value = __shfl_xor_sync(kFullMask, value, 1);
  __syncwarp();
  b.out[Lane()] = value;
}

// The last warp has ended but for 8 lanes.
template <bool kBug>
SIMT_KERNEL(32, 1)
ShuffleFromEndedLane(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  if (Lane() >= 8) return;
  const uint32_t mask = kBug ? kFullMask : 0xffU;
  b.out[Lane()] = __shfl_xor_sync(mask, b.in[Lane()], kBug ? 16 : 4);
}

template <bool kBug>
SIMT_KERNEL(32, 1)
MmaByPartOfWarp(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  float d[4] = {};
  const uint32_t a[4] = {};
  if (!kBug || Lane() < 31) ptx::MmaBf16(d, a, 0, 0);
  b.out[Lane()] = d[0];
}

constexpr KernelControl kControls[] = {
    TESSERA_CONTROL(ShuffleFromAbsentLane, 1, 32, 0, "reads lane 20, which takes no part", false),
    TESSERA_CONTROL(LaneOutsideItsMask, 1, 32, 0, "lane 31 is not in its own mask", false),
    TESSERA_CONTROL(MasksThatDiffer, 1, 32, 0, "deadlock", false),
    TESSERA_CONTROL(ShuffleInDivergentCode, 1, 32, 0, "deadlock", false),
    TESSERA_CONTROL(ShuffleFromEndedLane, 1, 32, 0, "which takes no part", false),
    TESSERA_CONTROL(MmaByPartOfWarp, 1, 32, 0, "mma.sync by a part of a warp", false),
};

}  // namespace

ControlGroup WarpControls() { return {kControls, sizeof(kControls) / sizeof(kControls[0])}; }

}  // namespace tessera::cuda
