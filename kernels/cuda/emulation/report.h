// How the emulator says what it found. Nothing here allocates before the report is written: a fiber
// that fails never goes on, and what it owned would be lost.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_REPORT_H_
#define TESSERA_KERNELS_CUDA_EMULATION_REPORT_H_

#include <string>

#include "kernels/cuda/emulation/machine.h"

namespace tessera::simt::emulation {

struct ShortText {
  char text[224] = "";
  const char* c_str() const { return text; }
};

// Refuses instructions that the emulated GPUs do not have: capability 90 is sm_90.
void NeedCapability(int capability, const char* what);
// Ends the launch with a report: kernel, finding, thread, line of the source.
[[noreturn]] __attribute__((format(printf, 1, 2))) void Fail(const char* format, ...);

// "block (1,0,0) thread 5"
ShortText Where(const Thread* t);
// "thread 5 of block 1 of the cluster", "cp.async of thread 5", ...
ShortText Who(const Cluster& cluster, Epoch e);
// The same of any operation: "block (1,0,0) thread 5 of 'SomeKernel'", or its name.
ShortText WhoOf(const OperationRecord& record, uint32_t serial, Epoch e);
// "kernel.cu:17" of the instruction before a return address; empty when unknown.
std::string SourceLine(const void* return_address);
// The end of every report: how to see it again.
std::string HowToRepeat();
// The whole report about what thread `t` has failed with.
std::string Report(const Thread* t);

inline const char* Verb(bool write) { return write ? "store" : "load"; }

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_REPORT_H_
