// Executes kernels on the CPU: one fiber per thread, scheduled at random, every access to shared
// and global memory checked. See kernels/cuda/README.md. The fake runtime (kernels/cuda/fake) is
// its caller; kernels reach it through simt.h and ptx.h.
//
// Threads: Run is for one thread, because those of kernels stay on it; it and Begin, Execute, Copy,
// Fill and Abandon for one at a time (the runtime sees to it); the rest may be called at any time
// by any thread.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_EMULATOR_H_
#define TESSERA_KERNELS_CUDA_EMULATION_EMULATOR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "kernels/cuda/simt/ptx.h"

namespace tessera::simt::emulation {

struct Options {
  uint64_t seed = 1;          // of schedules, landings and failing try_waits
  int resident_clusters = 2;  // clusters of a launch that run interleaved, at most
  // Mean number of accesses to shared and global memory between forced switches; 0: threads switch
  // only where they wait.
  int preempt_every = 200;
  bool check_races = true;
  int devices = 8;
  int compute_capability = 90;  // 10 * major + minor: what the GPUs claim, and what they refuse
  int multiprocessors = 4;
  size_t memory_bytes = size_t{4} << 30;  // of each GPU
  // How long to wait for another thread to enqueue what all streams wait for, before that is an
  // error.
  int patience_milliseconds = 20'000;
};
// From the environment: TESSERA_EMULATION_SEED, _PREEMPT, _RACES (0: no), _RESIDENT, _GPUS, _ARCH,
// _MEMORY (bytes), _PATIENCE (ms).
Options OptionsFromEnvironment();
// Not while anything executes. Those of the environment hold until the first call.
void SetOptions(const Options& options);
const Options& GetOptions();

struct Shape {
  dim3 grid, block, cluster{1, 1, 1};
  size_t shared_bytes = 0;
  bool dependent = false;  // may start before the launch before it has ended
  bool together = false;   // all blocks must fit the GPU at once
};
// Why no GPU of these options would take it; empty when it would.
// code: the kernel, if the bound of SIMT_KERNEL is to be checked too.
std::string Refusal(const Shape& shape, const void* code = nullptr);
size_t SharedBytesPerBlock();

// Position of an operation in the order of streams. Streams are numbered over all GPUs.
struct StreamPosition {
  int device = 0;
  int stream = 0;
  uint64_t sequence = 0;
  std::vector<uint64_t> seen;  // per stream: the last operation that is ordered before this one
  std::vector<uint64_t> host;  // per stream: the last one that the host had waited for
};

// Every thread executes call(parameters).
struct Body {
  void (*call)(const void* parameters);
  const void* parameters;
  size_t bytes;
};
// Executes a launch that waits for no other one; returns what was found first, or nothing.
std::string Execute(const char* name, const Shape& shape, const StreamPosition& at,
                    const Body& body);
// Takes a launch in, whose threads Run executes, interleaved with those of others. `ended`, called
// by Run, is told what was found first.
void Begin(const char* name, const Shape& shape, const StreamPosition& at, const Body& body,
           std::function<void(const std::string&)> ended);
// kEnded: a launch has. kIdle: all of them wait in loops for something that none of them does, such
// as another GPU's flag; or there are none.
enum class Progress { kEnded, kIdle };
Progress Run(bool thoroughly);  // before kIdle is believed
bool Executing();               // whether a launch has not ended
// Ends the oldest launch as a deadlock; the next Run tells.
void FailOldest();
// Forgets all launches.
void Abandon();

// Device memory: filled with 0xff (NaN), bounds and initialisation known to the byte. Addresses are
// never used again. What is only cleared as a whole takes no memory of the system. Null when the
// GPU has no room.
void* Allocate(int device, size_t bytes);
// False: not what Allocate gave. Not while anything executes.
bool Free(void* pointer);
size_t AllocatedBytes(int device);
// The GPU whose memory holds the address; -1: none.
int DeviceOf(const void* pointer);
bool EnablePeerAccess(int device, int peer);  // false: it was

// Host memory that kernels may read, by atomic loads of system scope. Unmap: as Map was called.
void Map(const void* host, size_t bytes);
void Unmap(const void* host);
bool IsMapped(const void* host, size_t bytes);

// Accesses by copies and collectives; return what is wrong with them.
std::string CopyIn(void* device, const void* host, size_t bytes, const StreamPosition& at);
std::string CopyOut(void* host, const void* device, size_t bytes, const StreamPosition& at);
std::string CopyBetween(void* to, const void* from, size_t bytes, const StreamPosition& at);
std::string Fill(void* device, int value, size_t bytes, const StreamPosition& at);

struct Statistics {
  uint64_t launches = 0, blocks = 0, switches = 0, accesses = 0, collectives = 0;
  uint64_t wgmma = 0, tma = 0;
  uint64_t ldmatrix = 0, ldmatrix_conflicts = 0;  // matrices read; extra passes through the banks
  uint64_t global_bytes_read = 0, global_bytes_written = 0;
};
Statistics& Counters();

// The formats of all reports about threads so far: tests hold them against the sources.
const std::set<std::string>& ReportedFormats();

// What cuTensorMapEncodeTiled does; empty, or the reason why it would refuse.
struct TensorMapFields {
  uint32_t magic;
  uint8_t rank, element_bytes, swizzle_bytes, unused;
  void* base;
  uint64_t dims[5];
  uint64_t strides[5];  // bytes; [0] is not used
  uint32_t box[5];
};
std::string EncodeTensorMap(TensorMap* map, const TensorMapFields& fields);

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_EMULATOR_H_
