#include <algorithm>
#include <cstring>

#include "kernels/cuda/emulation/async_copy.h"
#include "kernels/cuda/emulation/global_memory.h"
#include "kernels/cuda/emulation/mbarrier.h"
#include "kernels/cuda/emulation/report.h"
#include "kernels/cuda/emulation/shared_memory.h"

namespace tessera::simt::emulation {
namespace {

constexpr uint32_t kMagic = 0x7e55e7a1;
constexpr int kMaxRank = 5;

// Calls f(index in the box, inside the tensor, byte offset of the row's element 0) for its rows.
template <typename F>
void ForRows(const TensorMapFields& f, const int* at, F call) {
  uint32_t box[kMaxRank] = {1, 1, 1, 1, 1};
  uint32_t rows = 1;
  for (int d = 1; d < f.rank; ++d) rows *= box[d] = f.box[d];
  for (uint32_t row = 0; row < rows; ++row) {
    bool inside = true;
    int64_t offset = 0;
    uint32_t rest = row;
    for (int d = 1; d < f.rank; ++d) {
      const int64_t c = int64_t{at[d]} + rest % box[d];
      rest /= box[d];
      inside = inside && c >= 0 && c < static_cast<int64_t>(f.dims[d]);
      offset += c * static_cast<int64_t>(f.strides[d]);
    }
    call(row, inside, offset);
  }
}

void Land(const TmaTransfer& op) {
  const TensorMapFields& f = op.map;
  unsigned char* window = op.block->shared;
  ForRows(f, op.at, [&](uint32_t row, bool inside, int64_t offset) {
    for (uint32_t e = 0; e < f.box[0]; ++e) {
      const int64_t c = int64_t{op.at[0]} + e;
      size_t to = op.shared + (size_t{row} * f.box[0] + e) * f.element_bytes;
      if (f.swizzle_bytes == 128) to = Swizzle128(to);
      if (inside && c >= 0 && c < static_cast<int64_t>(f.dims[0])) {
        std::memcpy(window + to, static_cast<char*>(f.base) + offset + c * f.element_bytes,
                    f.element_bytes);
      } else {
        std::memset(window + to, 0, f.element_bytes);
      }
    }
  });
  MBarrier& b = op.block->mbarriers[op.barrier];
  b.clock[op.component] = std::max(b.clock[op.component], op.clock);
  b.bytes -= op.bytes;
  MaybeCompletePhase(*op.block, b);
}

// The source is read by the issuing thread's leave.
void CheckSource(Thread* t, const TmaTransfer& op) {
  const TensorMapFields& f = op.map;
  const int64_t begin = std::max<int64_t>(op.at[0], 0);
  const int64_t end =
      std::min<int64_t>(int64_t{op.at[0]} + f.box[0], static_cast<int64_t>(f.dims[0]));
  if (begin >= end) return;
  ForRows(f, op.at, [&](uint32_t, bool inside, int64_t offset) {
    if (!inside) return;
    const char* from = static_cast<char*>(f.base) + offset + begin * f.element_bytes;
    if (!IsGlobal(reinterpret_cast<uintptr_t>(from)))
      Fail("a TMA load of host memory (%p)", static_cast<const void*>(from));
    M().address = from;
    CheckGlobal(t, {from, static_cast<size_t>(end - begin) * f.element_bytes, false});
  });
}

// A map in global memory is read through a proxy of its own.
void CheckMap(Thread* t, const TensorMap* map) {
  if (!IsGlobal(reinterpret_cast<uintptr_t>(map))) return;  // a parameter of the kernel
  CheckGlobal(t, {map, sizeof(*map), false});
  if (std::find(t->fenced_maps.begin(), t->fenced_maps.end(), map) == t->fenced_maps.end()) {
    Fail("a tensor map in global memory without fence.proxy.tensormap by this thread before");
  }
}

TmaTransfer MakeTransfer(const TensorMap* map, int rank, const int* at) {
  TmaTransfer op{};
  std::memcpy(&op.map, map, sizeof(op.map));
  if (op.map.magic != kMagic) Fail("%p is not a tensor map", static_cast<const void*>(map));
  if (op.map.rank != rank) {
    Fail("a tensor map of rank %d used with %d coordinates", op.map.rank, rank);
  }
  op.bytes = op.map.element_bytes;
  for (int d = 0; d < rank; ++d) {
    op.at[d] = at[d];
    op.bytes *= op.map.box[d];
  }
  return op;
}

// Lands in `block`, which need not be the running thread's. To each block of a multicast it is a
// transfer of its own: one may have landed, and be waited for, before the other.
void Start(TmaTransfer op, Block* block) {
  const Thread* t = Current();
  Machine& m = M();
  Cluster& cluster = *block->cluster;
  const uint32_t agent = cluster.next_tma++ % kTmaAgents;
  op.block = block;
  op.component = cluster.first_tma + agent;
  op.clock = ++cluster.tma_clock[agent];
  if (op.clock >= kClockMask) Fail("the emulator's clock overflows");
  FindMBarrier(*block, op.barrier, t->clock, t->proxied);
  // All earlier accesses to the box must be over when the load is issued.
  CheckShared(*block,
              {op.shared, op.bytes, true, EpochOf(op.component, op.clock), t->clock, t->proxied});
  std::memset(block->shared + op.shared, 0xff, op.bytes);
  m.transfers.push_back(op);
}

struct Box {
  const TensorMap* map;
  const int* at;
  int rank;  // of the tensor: so many coordinates
};

void Issue(void* shared, uint64_t* barrier, const Box& box, uint32_t blocks) {
  Thread* t = Current();
  Machine& m = M();
  m.address = shared;
  NeedCapability(90, "TMA");
  ++m.statistics.tma;
  CheckMap(t, box.map);
  TmaTransfer op = MakeTransfer(box.map, box.rank, box.at);
  op.shared = SharedOffset(shared);
  op.barrier = SharedOffset(barrier);
  const uint32_t alignment = op.map.swizzle_bytes == 128 ? 1024 : 128;
  if (op.shared % alignment != 0) {
    Fail("a TMA load to shared offset %zu, not a multiple of %u", op.shared - kSharedOrigin,
         alignment);
  }
  for (uint32_t rank = 0; blocks >> rank != 0; ++rank) {
    if ((blocks >> rank & 1) != 0) Start(op, &BlockOfRank(rank));
  }
  CheckSource(t, op);
  if (m.random.Below(8) == 0) LandTransfer();
}

}  // namespace

void LandTransfer() {
  Machine& m = M();
  const size_t i = m.random.Below(static_cast<uint32_t>(m.transfers.size()));
  const TmaTransfer op = m.transfers[i];
  m.transfers.erase(m.transfers.begin() + static_cast<ptrdiff_t>(i));
  m.idle = 0;
  Land(op);
}

bool TransfersInFlight(const Cluster& cluster) {
  for (const TmaTransfer& op : M().transfers) {
    if (op.block->cluster == &cluster) return true;
  }
  if (!M().options.check_races) return false;
  for (int agent = 0; agent < kTmaAgents; ++agent) {
    uint32_t known = 0;
    for (const Block& block : cluster.blocks) {
      known = std::max(known, block.exit_clock[cluster.first_tma + static_cast<uint32_t>(agent)]);
    }
    if (cluster.tma_clock[static_cast<size_t>(agent)] > known) return true;
  }
  return false;
}

std::string EncodeTensorMap(TensorMap* map, const TensorMapFields& fields) {
  TensorMapFields f = fields;
  f.magic = kMagic;
  if (f.rank < 1 || f.rank > kMaxRank) return "a rank outside [1, 5]";
  if (reinterpret_cast<uintptr_t>(f.base) % 16 != 0) return "the base is not aligned to 16 bytes";
  for (int d = 0; d < f.rank; ++d) {
    if (f.dims[d] == 0 || f.dims[d] > uint64_t{1} << 32) return "a dimension is empty or too large";
    if (f.box[d] == 0 || f.box[d] > 256) return "a box side outside [1, 256]";
    if (d > 0 && (f.strides[d] % 16 != 0 || f.strides[d] >= uint64_t{1} << 40)) {
      return "a stride that is no multiple of 16 bytes, or too large";
    }
  }
  const uint32_t row_bytes = f.box[0] * f.element_bytes;
  if (row_bytes % 16 != 0) return "the box's rows are no multiples of 16 bytes";
  if (f.swizzle_bytes != 0 && f.swizzle_bytes != 128) return "no swizzle but of 128 bytes, or none";
  if (f.swizzle_bytes == 128 && row_bytes != 128) return "rows that do not fit the swizzle";
  static_assert(sizeof(f) <= sizeof(*map));
  std::memcpy(map, &f, sizeof(f));
  return "";
}

}  // namespace tessera::simt::emulation

namespace tessera::simt::ptx {

void PrefetchTensorMap(const TensorMap*) {}

void FenceTensorMap(const TensorMap* map) {
  emulation::M().pc = __builtin_return_address(0);
  emulation::NeedCapability(90, "fence.proxy.tensormap");
  auto& fenced = emulation::Current()->fenced_maps;
  if (std::find(fenced.begin(), fenced.end(), map) == fenced.end()) fenced.push_back(map);
}

void TmaLoad2D(void* shared, const TensorMap* map, uint64_t* barrier, int x, int y) {
  emulation::M().pc = __builtin_return_address(0);
  const int at[] = {x, y};
  emulation::Issue(shared, barrier, {map, at, 2}, 1U << ClusterRank());
}
void TmaLoad3D(void* shared, const TensorMap* map, uint64_t* barrier, int x, int y, int z) {
  emulation::M().pc = __builtin_return_address(0);
  const int at[] = {x, y, z};
  emulation::Issue(shared, barrier, {map, at, 3}, 1U << ClusterRank());
}
void TmaMulticast2D(void* shared, const TensorMap* map, uint64_t* barrier, int x, int y,
                    uint32_t ranks) {
  emulation::M().pc = __builtin_return_address(0);
  const int at[] = {x, y};
  if (ranks == 0) emulation::Fail("a multicast to no block");
  emulation::Issue(shared, barrier, {map, at, 2}, ranks);
}

}  // namespace tessera::simt::ptx
