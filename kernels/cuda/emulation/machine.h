// The state of the emulator, shared by its files. Only the thread that executes touches it, but for
// what memory.h guards.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_MACHINE_H_
#define TESSERA_KERNELS_CUDA_EMULATION_MACHINE_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/emulation/clock.h"
#include "kernels/cuda/emulation/emulator.h"

namespace tessera::simt::emulation {

inline constexpr int kMaxThreadsPerBlock = 1024;
inline constexpr int kMaxBlocksPerCluster = 8;
inline constexpr int kNamedBarriers = 16;
inline constexpr int kTmaAgents = 64;
inline constexpr int kSharedOthers = 4;
inline constexpr int kThreadsPerWarpgroup = 128;

struct Block;
struct Cluster;
struct Grid;

struct CpAsync {
  uint32_t shared;  // offset in the block's window
  const void* global;
  uint32_t valid;
  bool landed;
};

// What is known of other launches: operations that are over, by stream, and clocks of clusters, by
// their serial number.
struct Knowledge {
  std::vector<uint64_t> seen;
  std::map<uint32_t, ClockVector> clusters;
};

// What a release publishes.
struct Snapshot {
  int device = 0;
  Scope scope = Scope::kDevice;
  Knowledge known;
};

struct Thread {
  ThreadView* view = nullptr;            // at the top of the fiber's stack: kernels may read it
  void* context = nullptr;               // where to go on, while it does not run
  const unsigned char* stack = nullptr;  // of the fiber: kFiberStackBytes
  Block* block = nullptr;
  int id = 0, lane = 0, warp = 0;
  uint32_t component = 0;
  bool exited = false, blocked = false;
  const char* waits_for = "";
  Site waits_at{"", 0};
  uint32_t* clock = nullptr;
  // What of the generic proxy's accesses the async proxy sees on behalf of this thread.
  uint32_t* proxied = nullptr;
  std::vector<CpAsync> open_copies;
  std::deque<std::vector<CpAsync>> copy_groups;
  std::vector<const TensorMap*> fenced_maps;
  bool waited_for_grid = false;
  std::shared_ptr<const Snapshot> fence;
  std::vector<std::shared_ptr<const Snapshot>> unfenced_reads;
  std::shared_ptr<const Snapshot> acquired;  // the last one: loops acquire the same again and again
};

// A warp-wide operation that lanes are arriving at; the last one executes it for all.
using CollectiveRun = void (*)(Block& block, int warp, uint32_t arrived, void** operands,
                               int64_t extra);
struct Collective {
  uint32_t mask = 0, arrived = 0;
  CollectiveRun run = nullptr;
  int64_t extra = 0;
  void* operands[kWarpSize];
};

struct Warp {
  uint32_t exited = 0;
  std::vector<Collective> open;
};

struct Barrier {
  int expected = 0, arrived = 0;
  Site site{"", 0};
  std::vector<Thread*> waiting;
  ClockVector clock, proxied;
};

struct MBarrier {
  uint32_t count = 0, pending = 0;
  int64_t bytes = 0;
  uint32_t phase = 0;
  ClockVector clock, proxied, done_clock, done_proxied;
  ClockVector remote, done_remote;  // arrivals from other blocks; empty: none
  std::vector<Thread*> waiting;
};

// A first operand in registers: four words of each thread.
struct WgmmaRegisters {
  const uint32_t* registers[kThreadsPerWarpgroup];
  uint32_t words[kThreadsPerWarpgroup][4];  // what they held when it was issued
};
struct WgmmaOperation {
  uint64_t a, b;
  int n;
  bool accumulate, computed;
  void* key;
  std::shared_ptr<const WgmmaRegisters> of_registers;  // instead of a; b lies in panels then
};
struct Accumulator {
  std::vector<float> values;      // [64, n]
  std::vector<float*> registers;  // per thread
  std::vector<float> last;        // what the registers were given, or held at the fence
  int n = 0, in_flight = 0;
};
struct Warpgroup {
  int arrived = 0;
  const char* kind = nullptr;
  int64_t extra = 0;
  uint64_t a = 0, b = 0;
  int n = 0;
  bool accumulate = false;
  float* registers[kThreadsPerWarpgroup];
  const uint32_t* a_registers[kThreadsPerWarpgroup] = {};  // null: `a` describes the operand
  std::vector<Thread*> waiting;
  bool fenced = false;
  uint32_t clock = 1;
  std::vector<WgmmaOperation> open;
  std::deque<std::pair<uint32_t, std::vector<WgmmaOperation>>> groups;
  std::map<void*, Accumulator> accumulators;
  // First operands in registers as they were at the last fence, by the first thread's.
  std::map<const uint32_t*, WgmmaRegisters> operands;
};

struct Block {
  Cluster* cluster = nullptr;
  int rank = 0, slot = -1, live = 0;
  unsigned char* shared = nullptr;    // begin of its window
  size_t shared_end = 0;              // offsets [kSharedOrigin, shared_end) of the window exist
  Epoch* written = nullptr;           // per byte: the last store
  Epoch* others[kSharedOthers] = {};  // per byte: loads, and what atomics have overtaken
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Warpgroup> groups;
  Barrier barriers[kNamedBarriers];
  std::map<uint32_t, MBarrier> mbarriers;  // by offset
  // In a cluster of several blocks: accesses by other blocks and by TMA; arrivals of other blocks
  // at its mbarriers, and those that one of its threads has waited for.
  ClockVector remote, remote_arrivals, awaited_arrivals;
  ClockVector exit_clock;  // what its ended threads knew
};

struct Cluster {
  Grid* grid = nullptr;
  uint32_t serial = 0;
  int threads = 0, live = 0;
  uint32_t components = 0;
  uint32_t first_copy = 0, first_wgmma = 0, first_tma = 0;  // components of the agents
  uint32_t next_tma = 0;
  std::vector<uint32_t> tma_clock;
  std::vector<Block> blocks;
  std::vector<uint32_t> clocks;
  Barrier barrier;
  Knowledge acquired;
};

struct TmaTransfer {
  Block* block;
  TensorMapFields map;
  int at[5];
  uint32_t shared, barrier, bytes;
  uint32_t component, clock;
};

// A launch, a copy or a fill. Its clusters have the serial numbers from first_serial on.
struct OperationRecord {
  uint32_t first_serial;
  uint32_t clusters;
  StreamPosition position;
  std::string name;
  bool is_kernel;
  Shape shape;  // of a kernel
};

struct Grid {
  const char* name = "";
  Shape shape;
  Body body{};
  int device = 0;
  const OperationRecord* record = nullptr;
  std::string failure;          // what was found first; its threads do not go on then
  std::vector<uint32_t> order;  // of its clusters
  size_t next = 0;
  Knowledge known;   // when it began
  Knowledge learnt;  // by its clusters that have ended
  std::vector<std::unique_ptr<Cluster>> resident;
  std::function<void(const std::string&)> ended;  // called once it is over
};

struct Machine {
  Options options = OptionsFromEnvironment();
  Random random;
  Statistics statistics;
  void* scheduler = nullptr;
  std::vector<std::unique_ptr<Grid>> grids;  // that execute, interleaved; oldest first
  std::vector<Thread*> runnable;             // of all grids that execute
  std::vector<TmaTransfer> transfers;        // under way
  const char* format = nullptr;              // of the finding
  std::set<std::string> formats;
  char finding[640] = "";  // what the failing thread says
  int preempt_in = 0;
  uint64_t idle = 0;  // turns in which nothing was stored nor any wait ended
  const void* pc = nullptr;
  const void* address = nullptr;  // of the present access
  std::deque<OperationRecord> operations;
  std::map<int, Knowledge> learnt;  // by the launches of a stream
  uint32_t next_serial = 1;
};
// Made before main, because a guard at every use would be felt; so without what takes memory.
extern Machine* const machine;
inline Machine& M() { return *machine; }

// The fiber that runs, of this operating-system thread: launchers are compiled with the kernels,
// instrumented too, and run on other threads at the same time.
extern constinit thread_local Thread* current_thread;
inline Thread* Current() { return current_thread; }

inline Grid& GridOf(const Thread* t) { return *t->block->cluster->grid; }
inline Epoch Now(const Thread* t) { return EpochOf(t->component, t->clock[t->component]); }

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_MACHINE_H_
