// Atomic operations, fences, and what they publish: a release stores what its thread knows with the
// variable, an acquire that reads it learns that; of other clusters too.
#include <cstring>
#include <map>

#include "kernels/cuda/emulation/global_memory.h"
#include "kernels/cuda/emulation/knowledge.h"
#include "kernels/cuda/emulation/mbarrier.h"
#include "kernels/cuda/emulation/report.h"
#include "kernels/cuda/emulation/scheduler.h"
#include "kernels/cuda/emulation/shared_memory.h"

namespace tessera::simt::emulation {
namespace {

using SnapshotPtr = std::shared_ptr<const Snapshot>;

// What was last released with a variable, by its address.
std::map<const void*, SnapshotPtr>& Published() {
  static std::map<const void*, SnapshotPtr> published;
  return published;
}

std::shared_ptr<Snapshot> Publish(Thread* t, Scope scope) {
  Cluster& c = *t->block->cluster;
  auto s = std::make_shared<Snapshot>();
  s->device = GridOf(t).device;
  s->scope = scope;
  s->known = c.acquired;
  s->known.clusters[c.serial] = ClockVector(t->clock, t->clock + c.components);
  // Other GPUs do not know this one's streams.
  if (scope == Scope::kSystem && t->waited_for_grid) {
    JoinSeen(&s->known.seen, GridOf(t).record->position.seen);
  }
  Prune(&s->known);
  Tick(t);
  return s;
}

void Acquire(Thread* t, const Snapshot& s, Scope scope) {
  Cluster& c = *t->block->cluster;
  const bool other_device = s.device != GridOf(t).device;
  if (other_device && (scope != Scope::kSystem || s.scope != Scope::kSystem)) return;
  const bool others = scope != Scope::kBlock && s.scope != Scope::kBlock;
  if (others) JoinSeen(&c.acquired.seen, s.known.seen);
  for (const auto& [serial, clock] : s.known.clusters) {
    if (serial == c.serial) {
      Join(t->clock, clock.data(), clock.size());
    } else if (others) {
      JoinClock(&c.acquired, serial, clock);
    }
  }
}

enum class Order { kRelaxed, kAcquire, kRelease, kAcqRel };
enum class Rmw { kAdd, kMax, kOr, kExchange, kLoad, kStore };
struct AtomicCall {
  void* address;
  size_t bytes;
  Rmw operation;
  Order order;
  Scope scope;
};

uint64_t Apply(Rmw operation, uint64_t old, uint64_t operand) {
  switch (operation) {
    case Rmw::kAdd:
      return old + operand;
    case Rmw::kMax:
      return std::max(old, operand);
    case Rmw::kOr:
      return old | operand;
    case Rmw::kExchange:
    case Rmw::kStore:
      return operand;
    case Rmw::kLoad:
      return old;
  }
  return old;
}

void CheckAtomic(Thread* t, const AtomicCall& a) {
  const auto address = reinterpret_cast<uintptr_t>(a.address);
  M().address = a.address;
  if (address % a.bytes != 0) {
    Fail("an atomic of %zu bytes at %p, which is not aligned", a.bytes, a.address);
  }
  const bool loads = a.operation != Rmw::kStore, stores = a.operation != Rmw::kLoad;
  if (IsShared(address)) {
    size_t offset;
    Block* block = SharedBlockAt(address, &offset);
    CheckNoBarrier(*block, offset, a.bytes, stores);
    const Epoch own = Now(t) | kAtomicEpoch;
    if (loads) CheckShared(*block, {offset, a.bytes, false, own, t->clock, nullptr, stores});
    if (stores) CheckShared(*block, {offset, a.bytes, true, own, t->clock});
    return;
  }
  if (!IsGlobal(address)) Fail("an atomic on host memory (%p)", a.address);
  if (loads) CheckGlobal(t, {a.address, a.bytes, false, true, stores});
  if (stores) CheckGlobal(t, {a.address, a.bytes, true, true});
}

void AcquireFrom(Thread* t, const AtomicCall& a, const SnapshotPtr& published) {
  if (a.operation == Rmw::kStore || published == nullptr) return;
  if (a.order == Order::kAcquire || a.order == Order::kAcqRel) {
    if (a.scope == Scope::kSystem && t->acquired == published) return;
    Acquire(t, *published, a.scope);
    if (a.scope == Scope::kSystem) t->acquired = published;
  } else {
    t->unfenced_reads.push_back(published);
  }
}

void ReleaseTo(Thread* t, const AtomicCall& a, SnapshotPtr* published) {
  if (a.operation == Rmw::kLoad) return;
  SnapshotPtr s = t->fence;
  if (a.order == Order::kRelease || a.order == Order::kAcqRel) s = Publish(t, a.scope);
  if (s == nullptr) {
    if (a.operation == Rmw::kStore) *published = nullptr;
    return;
  }
  if (*published != nullptr && a.operation != Rmw::kStore) {  // a release sequence
    auto merged = std::make_shared<Snapshot>(*s);
    JoinKnowledge(&merged->known, (*published)->known);
    merged->scope = std::min(s->scope, (*published)->scope);
    Prune(&merged->known);
    s = std::move(merged);
  }
  *published = std::move(s);
}

// Of a word that the host writes meanwhile.
uint32_t LoadMapped(const uint32_t* word) {
  const uint32_t value = __atomic_load_n(word, __ATOMIC_ACQUIRE);
  YieldIdle("a loop around a load of host memory");
  return value;
}

uint64_t Atomic(const AtomicCall& a, uint64_t operand) {
  Thread* t = Current();
  CheckAtomic(t, a);
  uint64_t old = 0;
  std::memcpy(&old, a.address, a.bytes);
  const uint64_t value = Apply(a.operation, old, operand);
  std::memcpy(a.address, &value, a.bytes);
  if (M().options.check_races) {
    SnapshotPtr& published = Published()[a.address];
    AcquireFrom(t, a, published);
    ReleaseTo(t, a, &published);
  }
  if (a.operation == Rmw::kLoad) {
    YieldIdle("a loop around an atomic load");
  } else {
    M().idle = 0;
    if (M().random.Below(4) == 0) YieldTurn();
  }
  return old;
}

template <typename T>
T Relaxed(T* address, Rmw operation, T value, Scope scope) {
  return static_cast<T>(Atomic({address, sizeof(T), operation, Order::kRelaxed, scope}, value));
}

template <typename T>
T OnShared(T* address, Rmw operation, T value) {
  SharedOffset(address);
  return Relaxed(address, operation, value, Scope::kBlock);
}

uint32_t Load(const uint32_t* address, Order order, Scope scope) {
  return static_cast<uint32_t>(
      Atomic({const_cast<uint32_t*>(address), sizeof(*address), Rmw::kLoad, order, scope}, 0));
}

}  // namespace

void Fence(Scope scope) {
  Thread* t = Current();
  if (!M().options.check_races) return;
  for (const auto& s : t->unfenced_reads) Acquire(t, *s, scope);
  t->unfenced_reads.clear();
  t->fence = Publish(t, scope);
}

}  // namespace tessera::simt::emulation

namespace tessera::simt::ptx {

using namespace emulation;  // NOLINT: the bodies of ptx.h are written in the emulator's words

#define TESSERA_SIMT_NOTE_PLACE M().pc = __builtin_return_address(0)

uint32_t AtomicAddRelaxed(uint32_t* address, uint32_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  return Relaxed(address, Rmw::kAdd, value, Scope::kDevice);
}
uint64_t AtomicAddRelaxed(uint64_t* address, uint64_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  return Relaxed(address, Rmw::kAdd, value, Scope::kDevice);
}
uint32_t AtomicMaxRelaxed(uint32_t* address, uint32_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  return Relaxed(address, Rmw::kMax, value, Scope::kDevice);
}
uint64_t AtomicMaxRelaxed(uint64_t* address, uint64_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  return Relaxed(address, Rmw::kMax, value, Scope::kDevice);
}
uint32_t AtomicOrRelaxed(uint32_t* address, uint32_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  return Relaxed(address, Rmw::kOr, value, Scope::kDevice);
}
uint32_t AtomicExchangeRelaxed(uint32_t* address, uint32_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  return Relaxed(address, Rmw::kExchange, value, Scope::kDevice);
}
uint32_t AtomicAddShared(uint32_t* address, uint32_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  return OnShared(address, Rmw::kAdd, value);
}
uint64_t AtomicAddShared(uint64_t* address, uint64_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  return OnShared(address, Rmw::kAdd, value);
}
uint32_t AtomicMaxShared(uint32_t* address, uint32_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  return OnShared(address, Rmw::kMax, value);
}
uint32_t AtomicOrShared(uint32_t* address, uint32_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  return OnShared(address, Rmw::kOr, value);
}
uint32_t AtomicAddAcqRel(uint32_t* address, uint32_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  return static_cast<uint32_t>(
      Atomic({address, sizeof(*address), Rmw::kAdd, Order::kAcqRel, Scope::kDevice}, value));
}
uint32_t LoadAcquire(const uint32_t* address) {
  TESSERA_SIMT_NOTE_PLACE;
  return Load(address, Order::kAcquire, Scope::kDevice);
}
uint32_t LoadAcquireSystem(const uint32_t* address) {
  TESSERA_SIMT_NOTE_PLACE;
  if (IsMapped(address, sizeof(*address))) return LoadMapped(address);
  return Load(address, Order::kAcquire, Scope::kSystem);
}
void StoreRelease(uint32_t* address, uint32_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  Atomic({address, sizeof(*address), Rmw::kStore, Order::kRelease, Scope::kDevice}, value);
}
void StoreReleaseSystem(uint32_t* address, uint32_t value) {
  TESSERA_SIMT_NOTE_PLACE;
  Atomic({address, sizeof(*address), Rmw::kStore, Order::kRelease, Scope::kSystem}, value);
}

void NanoSleep(uint32_t) { YieldIdle("a loop around nanosleep"); }
float Exp2(float x) { return __builtin_exp2f(x); }
uint32_t SharedAddress(const void* pointer) { return SharedOffset(pointer); }
void GridDependencyWait() { Current()->waited_for_grid = true; }
void GridDependencyLaunch() {}

}  // namespace tessera::simt::ptx
