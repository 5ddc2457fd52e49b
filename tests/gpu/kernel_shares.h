// How close the operations of a step come to the limits of the GPU: memory and tensor cores.
#ifndef TESSERA_TESTS_GPU_KERNEL_SHARES_H_
#define TESSERA_TESTS_GPU_KERNEL_SHARES_H_

#include <string>
#include <vector>

namespace tessera::test {

// --backend=NAME     cuda
// --bandwidth=X      bytes per second of a copy, measured: the limit of what is bound by memory
// --gpu=NAME         as the driver calls it: the datasheet's tensor core peak, where the table has
// it
// --json=FILE        gets an object per line
// --small            sizes for emulated GPUs; their figures mean nothing
// Prints a line per operation and shape of Qwen3-30B-A3B and Qwen3-8B, bfloat16: the limit, the
// value and their ratio; dense products also by cuBLASLt, where it is installed, as a yardstick.
// The exit code of a program.
int RunKernelShares(const std::vector<std::string>& arguments);

}  // namespace tessera::test

#endif  // TESSERA_TESTS_GPU_KERNEL_SHARES_H_
