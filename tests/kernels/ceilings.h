// What this machine can do at most, measured.
#ifndef TESSERA_TESTS_KERNELS_CEILINGS_H_
#define TESSERA_TESTS_KERNELS_CEILINGS_H_

namespace tessera::test {

struct Ceilings {
  double bytes_per_second = 0;       // reading memory that no cache holds
  double flops_per_second = 0;       // independent fp32 fused multiply-adds in registers
  double tile_flops_per_second = 0;  // bfloat16 products of tiles in registers; 0 without AMX
  double fork_join_seconds = 0;      // an empty ParallelFor
};

// All threads at once; takes about a second.
Ceilings MeasureCeilings(int threads);

}  // namespace tessera::test

#endif  // TESSERA_TESTS_KERNELS_CEILINGS_H_
