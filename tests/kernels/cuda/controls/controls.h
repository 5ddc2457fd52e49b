// Seeded bugs, each of which the emulator must report: kernels in two versions, one right and one
// with a bug. A new mechanism of the emulator gets a control here.
#ifndef TESSERA_TESTS_KERNELS_CUDA_CONTROLS_CONTROLS_H_
#define TESSERA_TESTS_KERNELS_CUDA_CONTROLS_CONTROLS_H_

#include "kernels/cuda/simt/launch.h"
#include "kernels/cuda/simt/ptx.h"

namespace tessera::cuda {

// What every control may use. All is written before the launch but `fresh`.
struct ControlBuffers {
  static constexpr int kFloats = 4096;
  static constexpr int kColumns = 64;  // of a bf16 row in `x`; a row has 128 bytes
  static constexpr int kRows = 128;
  float* in;                   // [kFloats] 0, 1, 2, ...
  float* out;                  // [kFloats] zero
  float* fresh;                // [kFloats] not written
  uint32_t* words;             // [kFloats] zero
  simt::Bf16* x;               // [kRows, kColumns]
  float* host;                 // memory of the host
  const simt::TensorMap* map;  // the kernel's map, in global memory
};

struct KernelControl {
  const char* kernel;
  const char* expects;  // a part of the report about the bug
  bool names_both;      // a race: the report names both sides
  cudaError_t (*launch)(cudaStream_t stream, bool bug, const ControlBuffers& buffers,
                        const simt::TensorMap& map);
};

struct ControlGroup {
  const KernelControl* controls;
  size_t count;
};
ControlGroup SharedControls();
ControlGroup WarpControls();
ControlGroup GlobalControls();
ControlGroup CopyControls();
ControlGroup TmaControls();
ControlGroup WgmmaControls();
ControlGroup MisuseControls();
// The right version of one of them, for a test that brings a wrong map.
const KernelControl& OneBoxControl();

// For the tests of streams and events: out[i] = in[i] + 1 for 256 floats, by two blocks.
cudaError_t AddOne(cudaStream_t stream, const float* in, float* out, bool waits_for_grid);
// Launches it with more threads than its SIMT_KERNEL names.
cudaError_t AddOneByTooLargeBlocks(cudaStream_t stream, const float* in, float* out);
// Spins until *flag is 1 (or sets it), then reads (writes) *value; across GPUs.
cudaError_t SetFlag(cudaStream_t stream, uint32_t* flag, float* value, bool system);
cudaError_t AwaitFlag(cudaStream_t stream, const uint32_t* flag, const float* value, float* out,
                      bool system);

#define TESSERA_CONTROL_SHAPED(name, grid_, block_, cluster_, shared_, expects, both)             \
  {                                                                                               \
#name, expects, both, [](cudaStream_t stream, bool bug, const ControlBuffers& buffers,          \
                              const simt::TensorMap& map) {                                       \
      const simt::LaunchShape shape{.grid = dim3(grid_),                                          \
                                    .block = dim3(block_),                                        \
                                    .shared_bytes = (shared_),                                    \
                                    .stream = stream,                                             \
                                    .cluster = dim3(cluster_)};                                   \
      return bug ? SIMT_LAUNCH(shape, name<true>, buffers, map)                                   \
                 : SIMT_LAUNCH(shape, name<false>, buffers, map);                                 \
    } \
  }
#define TESSERA_CONTROL(name, blocks, threads, shared, expects, both) \
  TESSERA_CONTROL_SHAPED(name, blocks, threads, 1, shared, expects, both)

}  // namespace tessera::cuda

#endif  // TESSERA_TESTS_KERNELS_CUDA_CONTROLS_CONTROLS_H_
