// cp.async and ldmatrix.
#include "tests/kernels/cuda/controls/controls.h"

namespace tessera::cuda {
namespace {

using simt::SharedMemory;
using simt::TensorMap;
namespace ptx = simt::ptx;

constexpr int kThreads = 32;
constexpr int kStages = 3;

struct Tile {
  alignas(16) float values[kThreads * 4];
};
struct Stages {
  Tile stage[kStages];
};
struct Matrix {
  alignas(16) simt::Bf16 rows[32][8];
};

SIMT_DEVICE int Thread() { return static_cast<int>(threadIdx.x); }
SIMT_DEVICE void Fetch(Tile* tile, const float* from) {
  ptx::CpAsync16(tile->values + 4 * Thread(), from + 4 * Thread());
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
CopyNotWaitedFor(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Tile& shared = SharedMemory<Tile>();
  Fetch(&shared, b.in);
  ptx::CpAsyncCommit();
  if (!kBug) ptx::CpAsyncWait<0>();
  b.out[Thread()] = shared.values[4 * Thread()];
  ptx::CpAsyncWait<0>();
}

// Two tiles are on their way while a third is used.
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
WaitForAGroupTooFew(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Stages& shared = SharedMemory<Stages>();
  constexpr int kTiles = 6;
  for (int i = 0; i < kStages - 1; ++i) {
    Fetch(&shared.stage[i], b.in + i * 128);
    ptx::CpAsyncCommit();
  }
  float sum = 0;
  for (int i = 0; i < kTiles; ++i) {
    ptx::CpAsyncWait<kBug ? kStages - 1 : kStages - 2>();
    __syncthreads();
    if (i + kStages - 1 < kTiles) {
      Fetch(&shared.stage[(i + kStages - 1) % kStages], b.in + (i + kStages - 1) * 128);
    }
    ptx::CpAsyncCommit();
    sum += shared.stage[i % kStages].values[(4 * Thread() + 40) % 128];
  }
  ptx::CpAsyncWait<0>();
  b.out[Thread()] = sum;
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
CopyWithoutBarrier(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Tile& shared = SharedMemory<Tile>();
  Fetch(&shared, b.in);
  ptx::CpAsyncCommit();
  ptx::CpAsyncWait<0>();
  if (!kBug) __syncthreads();
  b.out[Thread()] = shared.values[(4 * Thread() + 40) % 128];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
CopyIntoAStageInUse(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Tile& shared = SharedMemory<Tile>();
  float sum = 0;
  for (int i = 0; i < 3; ++i) {
    Fetch(&shared, b.in + i * 128);
    ptx::CpAsyncCommit();
    ptx::CpAsyncWait<0>();
    __syncthreads();
    sum += shared.values[(4 * Thread() + 40) % 128];
    if (!kBug) __syncthreads();
  }
  b.out[Thread()] = sum;
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
CopyNeverWaitedFor(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Fetch(&SharedMemory<Tile>(), b.in);
  ptx::CpAsyncCommit();
  if (!kBug) ptx::CpAsyncWait<0>();
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MisalignedCopy(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Fetch(&SharedMemory<Tile>(), b.in + (kBug ? 2 : 4));
  ptx::CpAsyncCommit();
  ptx::CpAsyncWait<0>();
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
CopyFromBeyondTheEnd(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  const float* from = b.in + b.kFloats - 4;
  ptx::CpAsync16(SharedMemory<Tile>().values + 4 * Thread(), from + (kBug ? 4 : 0));
  ptx::CpAsyncCommit();
  ptx::CpAsyncWait<0>();
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
LdMatrixTooEarly(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Matrix& shared = SharedMemory<Matrix>();
  for (int i = 0; i < 8; ++i) shared.rows[Thread()][i] = b.x[Thread() * 8 + i];
  if (!kBug) __syncwarp();
  uint32_t r[4];
  ptx::LdMatrixX4(r, shared.rows[(Thread() + 8) % 32]);
  b.words[Thread()] = r[0] ^ r[1] ^ r[2] ^ r[3];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
LdMatrixOfMisalignedRows(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Matrix& shared = SharedMemory<Matrix>();
  for (int i = 0; i < 8; ++i) shared.rows[Thread()][i] = b.x[Thread() * 8 + i];
  __syncwarp();
  uint32_t r[4];
  ptx::LdMatrixX4Trans(r, &shared.rows[Thread()][0] + (kBug && Thread() < 31 ? 4 : 0));
  b.words[Thread()] = r[0] ^ r[1] ^ r[2] ^ r[3];
}

constexpr KernelControl kControls[] = {
    TESSERA_CONTROL(CopyNotWaitedFor, 1, kThreads, sizeof(Tile), "cp.async of", false),
    TESSERA_CONTROL(WaitForAGroupTooFew, 1, kThreads, sizeof(Stages), "cp.async of", false),
    TESSERA_CONTROL(CopyWithoutBarrier, 1, kThreads, sizeof(Tile), "shared offset", false),
    TESSERA_CONTROL(CopyIntoAStageInUse, 1, kThreads, sizeof(Tile), "race on shared", true),
    TESSERA_CONTROL(CopyNeverWaitedFor, 1, kThreads, sizeof(Tile), "cp.async in flight", false),
    TESSERA_CONTROL(MisalignedCopy, 1, kThreads, sizeof(Tile), "not aligned to 16", false),
    TESSERA_CONTROL(CopyFromBeyondTheEnd, 1, kThreads, sizeof(Tile), "at offset 16384", false),
    TESSERA_CONTROL(LdMatrixTooEarly, 1, kThreads, sizeof(Matrix), "shared offset", false),
    TESSERA_CONTROL(LdMatrixOfMisalignedRows, 1, kThreads, sizeof(Matrix), "not aligned", false),
};

}  // namespace

ControlGroup CopyControls() { return {kControls, sizeof(kControls) / sizeof(kControls[0])}; }

}  // namespace tessera::cuda
